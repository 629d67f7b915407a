/** Who is seen and heard: looks and voices to choose from, or both in words of one's own. */

import { $ } from "./dom.js";
import { recall, remember } from "./storage.js";

const CUSTOM = "custom";

export class Presets {
  #avatars = [];
  #voices = [];
  #pictures = {}; // scene -> file: of the looks that the shipped model was photographed with
  #choose;
  #showPoster;

  /**
   * @param {(chosen: {avatar?: string, scene?: string, voice?: string}) => void} choose is told what was chosen.
   * @param {(url: string | null) => void} showPoster is told the picture of the chosen look; null: there is none.
   */
  constructor({ choose, showPoster }) {
    this.#choose = choose;
    this.#showPoster = showPoster;
    $("voice").addEventListener("change", () => {
      if ($("voice").value !== CUSTOM) return this.#tell();
      this.#showSummary();
      $("voice-free").focus();
    });
    $("voice-free").addEventListener("change", () => this.#tell());
    $("scene").addEventListener("input", () => this.#checkLook());
    $("scene").addEventListener("change", () => this.#tell());
  }

  /** @param {(path: string) => Promise<object | null>} load JSON of a path of this server; null where it has none. */
  async load(load) {
    const [offered, pictures] = await Promise.all([load("v1/avatars"), load("looks/looks.json")]);
    if (!offered) return;
    this.#avatars = offered.avatars;
    this.#voices = offered.voices;
    this.#pictures = pictures ?? {};
    $("looks").replaceChildren(...this.#avatars.map((avatar) => this.#lookElement(avatar)));
    $("voice").replaceChildren(...this.#voices.map(({ name, voice }) => new Option(name, voice)), new Option("In your words", CUSTOM));
    const remembered = JSON.parse(recall("who") ?? "null");
    this.show(remembered ?? this.#avatars[0] ?? {});
    if (remembered) this.#choose(this.#chosen());
  }

  /** Show who speaks, unless somebody is about to change it. */
  update(who) {
    if (!$("who").contains(document.activeElement)) this.show(who);
  }

  show({ scene = "", voice = "" }) {
    $("scene").value = scene;
    $("voice").value = this.#voices.some((preset) => preset.voice === voice) ? voice : CUSTOM;
    $("voice-free").value = voice;
    this.#checkLook();
  }

  #lookElement(avatar) {
    const element = $("look").content.firstElementChild.cloneNode(true);
    const input = element.querySelector("input");
    input.value = avatar.id;
    input.addEventListener("change", () => {
      this.show(avatar);
      this.#tell();
    });
    element.querySelector(".look-name").textContent = avatar.name;
    const picture = this.#pictureOf(avatar.scene);
    element.querySelector(".look-initial").textContent = picture ? "" : avatar.name.charAt(0);
    if (picture) element.querySelector("img").src = picture;
    else element.querySelector("img").remove();
    return element;
  }

  #pictureOf(scene) {
    return this.#pictures[scene] ? `looks/${this.#pictures[scene]}` : null;
  }

  get #scene() {
    return $("scene").value.trim();
  }

  /** A scene that is none of a look's leaves all of them unchosen. */
  #checkLook() {
    const avatar = this.#avatars.find(({ scene }) => scene === this.#scene);
    for (const input of $("looks").querySelectorAll("input")) input.checked = input.value === avatar?.id;
    this.#showPoster(this.#pictureOf(this.#scene));
    this.#showSummary();
  }

  #showSummary() {
    $("voice-free-field").hidden = $("voice").value !== CUSTOM;
    const look = this.#avatars.find(({ scene }) => scene === this.#scene)?.name ?? "In your words";
    $("who-now").textContent = [look, $("voice").selectedOptions[0]?.label].filter(Boolean).join(" · ");
  }

  /** A preset goes by its name, so that the very first picture is right; anything else by its words. */
  #chosen() {
    const voice = $("voice").value === CUSTOM ? $("voice-free").value.trim() : $("voice").value;
    const avatar = this.#avatars.find(({ scene }) => scene === this.#scene);
    const look = avatar ? { avatar: avatar.id } : this.#scene ? { scene: this.#scene } : {};
    return voice ? { ...look, voice } : look;
  }

  #tell() {
    this.#checkLook();
    remember("who", JSON.stringify({ scene: this.#scene, voice: this.#chosen().voice }));
    this.#choose(this.#chosen());
  }
}
