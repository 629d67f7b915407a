/** @returns {HTMLElement} the element of the page with this id. */
export const $ = (id) => document.getElementById(id);

/** "warm-female" as a title. */
export const titleOf = (text) => text.charAt(0).toUpperCase() + text.slice(1).replaceAll(/[-_]/g, " ");
