// What scrolls sideways is reached by the keyboard, too.
function reach() {
  for (const part of document.querySelectorAll("pre > code, .md-typeset__scrollwrap, .md-typeset p:has(img)"))
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
}
addEventListener("load", () => requestAnimationFrame(reach));
addEventListener("resize", reach);
