/** What is remembered: choices in this browser, the key of a link in this tab. Storage may be forbidden; then nothing is. */

export function remember(name, value, storage = () => localStorage) {
  try {
    storage().setItem(`avatar.${name}`, value);
  } catch {
    // forbidden
  }
}

export function recall(name, storage = () => localStorage) {
  try {
    return storage().getItem(`avatar.${name}`);
  } catch {
    return null;
  }
}

/** The bearer token of a link that ends in #token=…; taken out of the address bar, where others would see it. Null without one. */
export function takeToken() {
  const inTab = () => sessionStorage;
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return recall("token", inTab);
  remember("token", token, inTab);
  history.replaceState(null, "", location.pathname + location.search);
  return token;
}
