// Live updates. Every page is complete without this file: it only replaces
// parts that the server rendered again with the templates of the page itself.
// Events: "part" {id, html} replaces an element, "line" {id, html} goes to its
// end, "fold" {id} closes a step, "page" {title, say} is the window's title
// and what to say aloud, "turn" asks for the whole page again.
"use strict";

// Times are written in the server's zone; here they become the viewer's. UTC
// stays in the title, and in the attribute that other programs read.
(() => {
  const write = (date, options) => new Intl.DateTimeFormat("en-GB", options).format(date).replaceAll(",", "");
  const zoneOf = (date) => new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" }).formatToParts(date).find((p) => p.type === "timeZoneName").value;
  if (!new Date().getTimezoneOffset() && zoneOf(new Date()) === "UTC") return;

  const words = (date, as) => {
    const now = new Date();
    const today = date.toDateString() === now.toDateString();
    const clock = { hour: "2-digit", minute: "2-digit" };
    const day = { day: "numeric", month: "short" };
    if (date.getFullYear() === now.getFullYear()) day.weekday = "short";
    else day.year = "numeric";
    const zone = as === "bare" ? "" : " " + zoneOf(date);
    if (as === "moment") return write(date, { weekday: "short", day: "numeric", month: "short", year: "numeric", ...clock, second: "2-digit" }) + zone;
    if (as === "day" && !today) return write(date, day);
    if (!today) return write(date, day) + " " + write(date, clock) + zone;
    return write(date, as === "at" ? { ...clock, second: "2-digit" } : clock) + zone;
  };
  const localise = (root) => {
    for (const time of root.querySelectorAll("time[data-as]")) {
      time.textContent = words(new Date(time.dateTime), time.dataset.as);
      time.removeAttribute("data-as");
    }
    for (const zone of root.querySelectorAll(".zone")) zone.textContent = zoneOf(new Date());
  };
  localise(document);
  new MutationObserver((changes) => {
    for (const change of changes) for (const node of change.addedNodes) if (node.nodeType === 1) localise(node.parentNode || node);
  }).observe(document.body, { childList: true, subtree: true });
})();

// A link to a line of a long log leads to it: what is not on the page is asked
// for, and what is folded is opened.
(() => {
  const go = () => {
    const wanted = /^#L([0-9]+)$/.exec(location.hash);
    if (!wanted) return;
    const line = document.getElementById("L" + wanted[1]);
    const step = line && line.closest("details");
    if (step && !step.open) {
      step.open = true;
      line.scrollIntoView();
    }
    const url = new URL(location.href);
    if (line || url.searchParams.get("line") === wanted[1] || !document.getElementById("steps")) return;
    url.searchParams.set("line", wanted[1]);
    location.replace(url);
  };
  go();
  window.addEventListener("hashchange", go);
})();

(() => {
  const address = document.body.dataset.live;
  if (!address || !window.EventSource) return;
  const say = document.createElement("p");
  say.className = "vh";
  say.setAttribute("aria-live", "polite");
  const lost = document.createElement("p");
  lost.className = "lost";
  lost.setAttribute("role", "status");
  lost.hidden = true;
  document.body.append(say, lost);

  let source = null;
  let have = ""; // what this page has, in the server's words

  const busy = (part) => part.contains(document.activeElement) && document.activeElement !== document.body;
  const later = new Map(); // newest text of parts that somebody is using
  const replace = (id, html) => {
    const old = document.getElementById(id);
    if (!old) return;
    if (busy(old)) { // never move what somebody is using; try again when they have left it
      if (!later.has(id)) old.addEventListener("focusout", () => setTimeout(() => {
        const newest = later.get(id);
        later.delete(id);
        replace(id, newest);
      }), { once: true });
      later.set(id, html);
      return;
    }
    // What the reader has unfolded stays unfolded; what was open because it ran does not.
    const open = new Set([...old.querySelectorAll("details[open][id]")].filter((d) => !d.querySelector(".live")).map((d) => d.id));
    old.outerHTML = html;
    for (const key of open) {
      const d = document.getElementById(key);
      if (d && d.tagName === "DETAILS") d.open = true;
    }
  };
  const atEnd = () => window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 80;

  const on = (name, act) => source.addEventListener(name, (event) => {
    have = event.lastEventId || have;
    act(JSON.parse(event.data));
  });
  const stop = () => {
    if (source) source.close();
    source = null;
  };
  const start = () => {
    stop();
    const url = new URL(address, location.href);
    if (have) url.searchParams.set("have", have);
    source = new EventSource(url);
    source.onopen = () => { lost.hidden = true; };
    source.onerror = () => {
      lost.textContent = source && source.readyState === EventSource.CLOSED
        ? "Live updates stopped. Reload to see the present state."
        : "Live updates are interrupted; the page shows the state of its last line.";
      lost.hidden = false;
    };
    on("part", (part) => replace(part.id, part.html));
    on("line", (line) => {
      const log = document.getElementById(line.id);
      if (!log) return;
      const follow = atEnd();
      const part = log.querySelector(":scope > .part"); // a line that was not ended yet
      if (part) part.remove();
      log.insertAdjacentHTML("beforeend", line.html);
      while (log.childElementCount > 5000) log.firstElementChild.remove(); // the raw log has everything
      if (follow) window.scrollTo(0, document.documentElement.scrollHeight);
    });
    on("fold", (step) => {
      const d = document.getElementById(step.id);
      if (d && !busy(d)) d.open = false;
    });
    on("page", (page) => {
      document.title = page.title;
      if (page.say) say.textContent = page.say;
    });
    on("turn", () => {
      stop();
      if (!document.activeElement || !document.activeElement.matches("input, textarea")) location.reload();
      else { lost.textContent = "This page has changed. Reload to see it."; lost.hidden = false; }
    });
  };
  // What a form does may end what this page shows. The answer to the form says
  // so better than this page, which would load itself again in its stead.
  document.addEventListener("submit", stop);
  // A hidden page needs no stream, and browsers allow few at once.
  document.addEventListener("visibilitychange", () => { if (document.hidden) stop(); else start(); });
  if (!document.hidden) start();
})();
