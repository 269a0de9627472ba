package web

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"strconv"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// asset is one embedded file with the hash that names its version.
type asset struct {
	body []byte
	kind string
	hash string
}

func loadAssets() map[string]asset {
	kinds := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
		".svg": "image/svg+xml"}
	all := map[string]asset{}
	entries, err := files.ReadDir("assets")
	if err != nil {
		panic("web: embedded assets: " + err.Error())
	}
	for _, e := range entries {
		b, err := files.ReadFile("assets/" + e.Name())
		if err != nil {
			panic("web: embedded asset " + e.Name() + ": " + err.Error())
		}
		sum := sha256.Sum256(b)
		all[e.Name()] = asset{body: b, kind: kinds[path.Ext(e.Name())], hash: hex.EncodeToString(sum[:6])}
	}
	return all
}

// serveAsset answers for the stylesheet, the script and the mark. An address
// with the file's own hash never changes its content.
func serveAsset(q *request) error {
	a, ok := q.assets[q.arg("asset")]
	if !ok {
		return notFound("there is no such file", "")
	}
	h := q.w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("ETag", `"`+a.hash+`"`)
	h.Set("Cache-Control", "no-cache")
	h.Del("Vary")
	if q.r.URL.Query().Get("v") == a.hash {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if q.r.Header.Get("If-None-Match") == `"`+a.hash+`"` {
		q.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	_, err := q.w.Write(a.body)
	return gone(err)
}

// parseTemplates reads every template once; a mistake in one is a mistake in
// the program.
func parseTemplates(assets map[string]asset) *template.Template {
	t := template.New("").Funcs(template.FuncMap{
		"asset":      func(name string) string { return "/assets/" + name + "?v=" + assets[name].hash },
		"st":         func(s show.State) mark { return markOf(s) },
		"fullminute": show.FullMinute,
		"mark":       func(word, shape, colour string) mark { return mark{word, shape, colour} },
		"marked":     marked,
		"short":      show.Short,
		"sentence":   sentence,
		"thousands":  show.Thousands,
		"count":      show.Plural,
		"names":      names,
		"size":       show.Bytes,
		"ansi":       ansi,
		"since":      since,
		"dur":        func(d time.Duration) string { return show.Elapsed(d) },
		"at":         func(t, now time.Time) template.HTML { return timeElement(t, "at", clock(t, now, true, true)) },
		"atm":        func(t, now time.Time) template.HTML { return timeElement(t, "atm", clock(t, now, false, true)) },
		"bare":       func(t, now time.Time) template.HTML { return timeElement(t, "bare", clock(t, now, false, false)) },
		"day":        func(t, now time.Time) template.HTML { return timeElement(t, "day", dayOrClock(t, now)) },
		"moment": func(t time.Time) template.HTML {
			return timeElement(t, "moment", t.Format("Mon 2 Jan 2006 15:04:05 MST"))
		},
		"dict":    dict,
		"safeurl": safeURL,
		"plus":    func(a, b int) int { return a + b },
		"clock":   func(t, now time.Time) string { return clock(t, now, false, true) },
	})
	return template.Must(t.ParseFS(files, "templates/*.html"))
}

// dict is the argument of a template that needs several.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("dict wants pairs, got %d values", len(pairs))
	}
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		k, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict key %v is no string", pairs[i])
		}
		m[k] = pairs[i+1]
	}
	return m, nil
}
