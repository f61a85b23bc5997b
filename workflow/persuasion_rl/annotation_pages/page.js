// Keys press the buttons that name them; in a field they write, and Escape leaves it.
let sent = false;
document.addEventListener("keydown", (event) => {
  const field = event.target.closest("textarea, input[type=text]");
  if (field) {
    if (event.key === "Escape") field.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  // Enter belongs to what has the focus.
  if (event.key === "Enter" && event.target.closest("button, a, summary")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const pressed = [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
  if (!pressed || pressed.disabled) return;
  event.preventDefault();
  pressed.click();
  if (pressed.tagName === "SUMMARY") document.getElementById("reason").focus();
});
// An impatient second press does not answer the next pair: only the first one is sent.
document.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
});
window.addEventListener("pageshow", () => { sent = false; });
