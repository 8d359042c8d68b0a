// What tools/browser.py asks a page of JupyterLab. A panel is what course_utils.explore.frame.panel makes.
window.course = {
  PANEL: ".jp-OutputArea .widget-vbox:has(> .widget-image)",
  CONTROLS: ":is([role=slider], .widget-readout[contenteditable=true], select, input, button, textarea)",
  SIGNS: ["Traceback (most recent call last)", "Error displaying widget", "Error creating widget", "Cannot draw"],

  all: (selector) => [...document.querySelectorAll(selector)],

  finished: null,

  // runs all cells of the notebook that is open, once its kernel is there; then `finished` says how it went
  async run() {
    try {
      const notebook = jupyterapp.shell.currentWidget;
      await notebook.context.ready;
      await notebook.sessionContext.ready;
      await jupyterapp.commands.execute("notebook:run-all-cells");
      course.finished = "well";
    } catch (error) {
      course.finished = String(error);
    }
  },

  // the last lines of every output that shows an error
  errors() {
    const wrong = (output) =>
      output.dataset.mimeType == "application/vnd.jupyter.error" ||
      course.SIGNS.some((sign) => output.innerText.includes(sign));
    const lines = (output) => output.innerText.trim().split("\n");
    return course.all(".jp-OutputArea-output").filter(wrong).map((output) => lines(output).slice(-3).join(" / "));
  },

  // controls that are part of no panel
  strays() {
    const controls = course.all(`.jp-OutputArea .jupyter-widgets ${course.CONTROLS}`);
    return controls.filter((control) => !control.closest(course.PANEL)).map((e) => e.outerHTML.slice(0, 80));
  },

  // what changes with each drawing: the picture, once it is loaded, and the words below it
  look(panel) {
    const picture = panel.querySelector("img.widget-image");
    return [picture.complete && picture.src, panel.querySelector("[role=status]").textContent];
  },

  // whether a panel looks other than `before`, as soon as it does or after so many seconds; asked from outside
  // of the page again and again, the answer would take the time from the kernel that draws
  async redrawn(panel, [before, seconds]) {
    for (const end = performance.now() + 1000 * seconds; performance.now() < end; ) {
      if (String(course.look(panel)) != String(before)) return true;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return false;
  },

  // what is wrong with a panel's picture
  blemishes(panel) {
    const picture = panel.querySelector("img.widget-image");
    const told = { "the picture has no alt text": !picture.alt };
    told["the picture is shown larger than it is"] = picture.width > picture.naturalWidth;
    return Object.keys(told).filter((sentence) => told[sentence]);
  },

  // what a slider or a list stands at, or what is typed
  value(row) {
    const control = row.querySelector("select, [role=slider], input[type=text]");
    return control.value ?? control.ariaValueNow;
  },

  // role and name, as a screen reader is told, of what has the focus, if that is in the panel
  focused(panel) {
    const control = document.activeElement;
    return panel.contains(control) ? [control.computedRole, control.computedName] : null;
  },
};
