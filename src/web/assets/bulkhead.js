// Everything here is an extra: each page does its work without this file.

// Show what was typed into a password field.
for (const button of document.querySelectorAll("[data-reveal]")) {
  const input = document.getElementById(button.dataset.reveal);
  if (!input) continue;
  button.hidden = false;
  button.parentElement.classList.add("ready");
  const set = (shown) => {
    input.type = shown ? "text" : "password";
    button.firstElementChild.textContent = shown ? button.dataset.hide : button.dataset.show;
  };
  button.addEventListener("click", () => {
    set(input.type === "password");
    input.focus();
  });
  // Never leave a secret readable in what the browser remembers of the form.
  input.form?.addEventListener("submit", () => set(false));
}

// Copy buttons. The clipboard needs a secure context, so they stay away on plain HTTP.
if (navigator.clipboard) {
  for (const button of document.querySelectorAll("[data-copy]")) {
    const source = document.getElementById(button.dataset.copy);
    if (!source) continue;
    button.hidden = false;
    const label = button.textContent;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(source.textContent.trim());
        button.textContent = button.dataset.done;
      } catch {
        getSelection()?.selectAllChildren(source);
      }
      setTimeout(() => { button.textContent = label; }, 2000);
    });
  }
}

// Propose a short name while the organization's name is typed, until the reader edits it.
// The server's rule (base/slug.rs) stays the one that counts.
const folds = { ß: "ss", ä: "ae", ö: "oe", ü: "ue", ø: "o", "'": "", "’": "", ".": "" };
const propose = (name) =>
  [...name.toLowerCase()]
    .map((c) => folds[c] ?? c)
    .join("")
    .normalize("NFD")
    .replace(/[\u0300-\u036f]/g, "")
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+/, "")
    .slice(0, 40)
    .replace(/-+$/, "");

for (const target of document.querySelectorAll("[data-slug-from]")) {
  const source = document.getElementById(target.dataset.slugFrom);
  if (!source) continue;
  let own = target.value !== "" && target.value !== propose(source.value);
  target.addEventListener("input", () => { own = target.value !== ""; });
  source.addEventListener("input", () => { if (!own) target.value = propose(source.value); });
}

// One submit a click. Nothing is disabled: a second press is ignored while the first is under way,
// and after a while (or on coming back with the back button) it works again.
const release = (form) => {
  delete form.dataset.sent;
  for (const button of form.querySelectorAll("[aria-busy]")) button.removeAttribute("aria-busy");
};
for (const form of document.querySelectorAll('form[method="post"]')) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    event.submitter?.setAttribute("aria-busy", "true");
    setTimeout(release, 8000, form);
  });
}
addEventListener("pageshow", () => document.querySelectorAll("form[data-sent]").forEach(release));

// Times in the reader's zone; the exact instant stays in the title.
const zoned = new Intl.DateTimeFormat(document.documentElement.lang || undefined, {
  dateStyle: "medium",
  timeStyle: "short",
});
for (const time of document.querySelectorAll("time[datetime]")) {
  const instant = new Date(time.dateTime);
  if (!Number.isNaN(instant.valueOf())) time.textContent = zoned.format(instant);
}
