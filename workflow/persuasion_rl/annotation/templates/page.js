// Keys press the buttons that name them; in a field they write, and Escape leaves it.
const OFF = "keys=off";
const off = () => document.cookie.split("; ").includes(OFF);
let sent = false;

// They can be turned off, for they are in the way of speech input (WCAG 2.1.4).
function showKeys() {
  const setting = document.getElementById("keys");
  setting.hidden = false;
  setting.textContent = off() ? "keys on" : "keys off";
  document.documentElement.classList.toggle("keys-off", off());
  for (const one of document.querySelectorAll("[data-key]")) {
    if (off()) one.removeAttribute("aria-keyshortcuts");
    else one.setAttribute("aria-keyshortcuts", one.dataset.key);
  }
}
document.getElementById("keys").addEventListener("click", () => {
  document.cookie = `${OFF}; path=/; samesite=lax; max-age=${off() ? 0 : 180 * 24 * 3600}`;
  showKeys();
});
showKeys();

document.addEventListener("keydown", (event) => {
  const field = event.target.closest("textarea, input");
  if (field) {
    if (event.key === "Escape") field.blur();
    // Or it would press the first button of the form.
    if (event.key === "Enter" && field.type === "radio") event.preventDefault();
    return;
  }
  if (off() || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  // Enter belongs to what has the focus.
  if (event.key === "Enter" && event.target.closest("button, a, summary")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const pressed = [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
  if (!pressed || pressed.disabled) return;
  event.preventDefault();
  if (pressed.tagName === "SUMMARY") {
    pressed.parentElement.open = true;
    document.getElementById("reason").focus();
  } else {
    pressed.click();
  }
});
// An impatient second press does not answer the next pair: only the first one is sent.
document.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
});
window.addEventListener("pageshow", () => { sent = false; });
