// The texts that can be seen, with a contrast below 4.5: [text, color, background, contrast].
const parse = (text) => (text.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
const luminance = ([red, green, blue]) => [red, green, blue].map((value) => value / 255)
  .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
const background = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const color = parse(getComputedStyle(one).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].filter((one) => one.nodeType === 3 && one.textContent.trim());
  if (!own.length || !element.checkVisibility() || element.closest(".hidden, .skip, noscript, template")) continue;
  const [text, paper] = [parse(getComputedStyle(element).color), background(element)].map(luminance);
  const contrast = (Math.max(text, paper) + 0.05) / (Math.min(text, paper) + 0.05);
  if (contrast < 4.5) found.push([own[0].textContent.trim().slice(0, 40), getComputedStyle(element).color, contrast]);
}
return found;
