// What tests/test_site.py asks a page of the reading edition.
window.edition = {
  all: (selector) => [...document.querySelectorAll(selector)],

  // the texts whose contrast with what is behind them is below `least`, as [ratio, text]
  faint(least) {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (texts.nextNode()) {
      const text = texts.currentNode.textContent.trim();
      const element = texts.currentNode.parentElement;
      if (!text || !edition.shows(element)) continue;
      const ratio = edition.contrast(element);
      if (!(ratio >= least)) found.push([ratio, text.slice(0, 60)]);
    }
    return found;
  },

  shows: (element) =>
    element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) &&
    element.getBoundingClientRect().width > 1,

  // the contrast ratio of WCAG 2
  contrast(element) {
    const behind = edition.behind(element);
    const lights = [edition.over(getComputedStyle(element).color, behind), behind].map(edition.luminance);
    return (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
  },

  luminance: (colour) =>
    colour
      .map((value) => (value > 0.04045 * 255 ? ((value / 255 + 0.055) / 1.055) ** 2.4 : value / 255 / 12.92))
      .reduce((sum, value, i) => sum + [0.2126, 0.7152, 0.0722][i] * value, 0),

  // the colour behind an element: the backgrounds of what it stands in, one over the other
  behind(element) {
    const below = element.parentElement ? edition.behind(element.parentElement) : [255, 255, 255];
    return edition.over(getComputedStyle(element).backgroundColor, below);
  },

  over(css, below) {
    const [red, green, blue, alpha = 1] = css.match(/[\d.]+/g).map(Number);
    return [red, green, blue].map((value, i) => alpha * value + (1 - alpha) * below[i]);
  },

  // by how many pixels the page can be scrolled to the side, and what of the text reaches out of the screen
  // without standing in something that scrolls
  wide() {
    const boxes = [document.documentElement, document.querySelector(".content")];
    const hidden = boxes.map((box) => box.scrollWidth - box.clientWidth);
    const out = edition
      .all("article *")
      .filter((element) => element.getBoundingClientRect().right > innerWidth + 1 && !edition.scrolled(element));
    return [Math.max(...hidden), out.map((element) => element.outerHTML.slice(0, 80))];
  },

  scrolled(element) {
    const parent = element.parentElement;
    if (parent.tagName == "ARTICLE") return false;
    return ["auto", "scroll"].includes(getComputedStyle(parent).overflowX) || edition.scrolled(parent);
  },

  // equations that take no place, and TeX or dollars that stand in the text as they were written
  undrawn() {
    const empty = edition.all("math").filter((math) => {
      const { width, height } = math.getBoundingClientRect();
      return edition.shows(math.parentElement) && !(width > 3 && height > 5);
    });
    const article = document.querySelector("article").cloneNode(true);
    article.querySelectorAll("pre, code").forEach((code) => code.remove());
    return [...empty.map((math) => math.textContent), ...(article.textContent.match(/\\[a-z]+|\$/g) ?? [])];
  },
};
