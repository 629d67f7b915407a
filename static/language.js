/** Guesses that a text is not English, by the commonest words of other languages that are written in Latin letters. */

const LANGUAGES = {
  German: "der das und ist nicht ich du sie wir ihr ein eine einen mit auf für von zu wie aus dem den es dir mir auch sind haben guten",
  French: "le la les des du est une et pas je vous nous pour avec dans que qui sur ce bonjour suis c'est elle mais très",
  Spanish: "el los las es una que por con para del está muy como yo pero hola buenos qué soy estoy mi y en",
  Italian: "il lo gli è una che per con di sono questo come io ciao buongiorno non mi della sei e",
  Portuguese: "o os as é uma que por com para do da está muito como eu mas olá bom não sou e em",
  Dutch: "de het een en niet ik van voor met zijn dat op je wij hoe goed ook maar zijn naar heb",
};
const ENGLISH =
  "the a an and is are was were i you we he she it they to of in on at for with this that not my your have has be do does what how hello me as or but";

const listOf = (words) => new Set(words.split(" "));
const english = listOf(ENGLISH);
const languages = Object.entries(LANGUAGES).map(([name, words]) => [name, listOf(words)]);

/** The language's name; null for English, and for what is too short to tell. */
export function foreignLanguageOf(text) {
  const words = text.toLowerCase().match(/[\p{L}'’]+/gu) ?? [];
  const count = (list) => words.filter((word) => list.has(word)).length;
  const [name, found] = languages.map(([language, list]) => [language, count(list)]).sort(([, a], [, b]) => b - a)[0];
  return found >= 2 && found > 2 * count(english) && found >= words.length / 5 ? name : null;
}
