package web

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// overflowing names the elements that stick out of the page sideways.
const overflowing = `(() => {
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= wide) return "";
  const scrolls = (e) => { for (e = e.parentElement; e; e = e.parentElement) if (["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX)) return true; return false; };
  return [...document.body.querySelectorAll("*")].filter((e) => e.getBoundingClientRect().right > wide + 1 && !scrolls(e)).map((e) => e.tagName + "." + e.className + "#" + e.id).slice(0, 5).join(", ") + " " + document.documentElement.scrollWidth + " > " + wide;
})()`

// accessible returns what an audit of the page's structure finds wrong.
const accessible = `(() => {
  const wrong = [];
  const all = (s) => [...document.querySelectorAll(s)];
  const name = (e) => (e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") || "").split(" ").map((id) => document.getElementById(id)?.textContent || "").join("") || e.textContent || "").trim();
  if (all("h1").length !== 1) wrong.push(all("h1").length + " h1");
  if (all("main").length !== 1) wrong.push(all("main").length + " main");
  if (!document.documentElement.lang) wrong.push("no lang");
  if (!document.title.includes("Headgate")) wrong.push("title " + document.title);
  const skip = document.querySelector("a.skip");
  if (!skip || !document.querySelector(skip.getAttribute("href"))) wrong.push("no skip link");
  const ids = all("[id]").map((e) => e.id);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) wrong.push("id twice: " + id);
  for (const e of all("input:not([type=hidden]), textarea, select")) if (!e.labels?.length && !e.getAttribute("aria-label")) wrong.push("no label: " + e.name);
  for (const e of all("a[href], button, summary")) if (!name(e)) wrong.push("no name: " + e.outerHTML.slice(0, 80));
  for (const e of all("[aria-labelledby], [aria-describedby]")) for (const id of (e.getAttribute("aria-labelledby") || e.getAttribute("aria-describedby")).split(" ")) if (!document.getElementById(id)) wrong.push("names nothing: " + id);
  for (const e of all("svg")) if (!e.closest("[aria-hidden=true]") && !(e.getAttribute("role") === "img" && e.getAttribute("aria-label"))) wrong.push("drawing without words: " + e.outerHTML.slice(0, 60));
  for (const e of all("use")) if (!document.querySelector(e.getAttribute("href"))) wrong.push("no symbol " + e.getAttribute("href"));
  for (const e of all(".st")) if (!e.textContent.trim()) wrong.push("state without a word");
  for (const e of all("[role=region]")) if (!name(e)) wrong.push("region without a name");
  for (const e of all("table")) if (!e.querySelector("th")) wrong.push("table without headers");
  for (const e of all("a[href^='#']")) if (!document.getElementById(decodeURIComponent(e.getAttribute("href").slice(1)))) wrong.push("leads nowhere: " + e.getAttribute("href"));
  let level = 0;
  for (const e of all("h1, h2, h3")) { const n = +e.tagName[1]; if (n > level + 1) wrong.push("heading jumps to " + e.tagName + ": " + e.textContent); level = n; }
  for (const e of all("nav, aside, section")) if (e.tagName === "NAV" && !e.getAttribute("aria-label")) wrong.push("nav without a name");
  for (const e of all("[style]")) wrong.push("inline style: " + e.outerHTML.slice(0, 60));
  for (const e of all("script")) if (!e.src || e.textContent.trim()) wrong.push("inline script");
  return wrong.join("\n");
})()`

// faintBars names what stands between stages or on the way of a change and can hardly be
// told from what is behind it.
const faintBars = `(() => {
  const light = c => { const [r, g, b] = c.match(/[\d.]+/g).slice(0, 3).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b };
  const clear = c => c === "transparent" || /, 0\)$/.test(c);
  const behind = e => { for (let p = e.parentElement; p; p = p.parentElement) { const c = getComputedStyle(p).backgroundColor; if (!clear(c)) return c; } return "rgb(255, 255, 255)" };
  const bars = [...document.querySelectorAll(".stage-gate")].filter(e => e.getBoundingClientRect().width > 0);
  if (!bars.length) return "there is no bar";
  return bars.map(e => { const a = light(getComputedStyle(e).backgroundColor), b = light(behind(e)); const k = (Math.max(a, b) + .05) / (Math.min(a, b) + .05); return k < 3 ? "a bar has a contrast of " + k.toFixed(1) : "" }).join("");
})()`

func TestPagesInABrowser(t *testing.T) {
	browser := launch(t)
	for _, c := range []struct {
		name, user string
		backend    *backend
		pages      []string
	}{
		{"full", "ada", fullBackend(), append([]string{"/nowhere-at-all", "/sign-in?code=ABCD-1234"}, pagesOf...)},
		{"fresh", "ada", emptyBackend(),
			[]string{"/", "/headgate", "/headgate/queue", "/headgate/env", "/headgate/releases", "/headgate/changes"}},
		{"nobody", "", emptyBackend(), []string{"/sign-in"}},
		{"may not approve", "mirek", fullBackend(), []string{"/checkout/promote/production"}},
		{"long names", "ada", longBackend(), longPages},
		{"long user", longUser, longBackend(), longPages},
		{"hostile", "ada", hostileBackend(), hostilePages},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t, browser, console(c.backend), c.user)
			b.do(chromedp.EmulateViewport(1600, 900))
			for _, path := range c.pages {
				b.do(chromedp.Navigate(b.url + path))
				if wrong := eval[string](b, accessible); wrong != "" {
					t.Errorf("%s: %s", path, wrong)
				}
				for _, width := range []int64{360, 768, 1600} {
					b.do(chromedp.EmulateViewport(width, 900))
					if out := eval[string](b, overflowing); out != "" {
						t.Errorf("%s at %d: %s", path, width, out)
					}
				}
			}
			if c.name == "full" {
				for _, scheme := range []string{"light", "dark"} {
					b.scheme(scheme)
					b.do(chromedp.EmulateViewport(390, 900), chromedp.Navigate(b.url+"/checkout"))
					if wrong := eval[string](b, faintBars); wrong != "" {
						t.Errorf("on a phone, %s: %s", scheme, wrong)
					}
				}
			}
			for line := range strings.Lines(b.console()) {
				if strings.Contains(line, "404 (Not Found)") && strings.Contains(line, "/nowhere-at-all") {
					continue // the one page that is meant to be missing
				}
				t.Errorf("console: %s", line)
			}
		})
	}
}
