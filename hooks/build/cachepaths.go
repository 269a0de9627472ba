package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"strings"
)

// What a buildspec's cache keeps (B54-B57) stands in archives below CacheDir, so
// that it has the trust of what else is there: a build reads what landed builds have
// left, and what it leaves counts when it lands. An archive is named by its key and
// by what paths are in it; of one name there is one for ever, but for the cache
// without a key.

const archives = CacheDir + "/paths"

// cacheNames are the file names of the archives that a cache may be restored from:
// the first is its own, the others are patterns of fallback keys.
func (r *runner) cacheNames(ctx context.Context) (names []string, key string, err error) {
	c := r.spec.Cache
	of := fmt.Sprintf(".%x.tar", sha256.Sum256([]byte(strings.Join(c.Paths, "\n"))))[:17] + ".tar"
	if c.Key == "" {
		return []string{"_" + of}, "", nil
	}
	for i, text := range append([]string{c.Key}, c.Fallback...) {
		value, err := r.expand(ctx, text)
		var unset *clientError
		if errors.As(err, &unset) {
			r.log.NoteAbout("warning", "cache: %s; the cache is not used", unset.what)
			return nil, "", nil
		}
		if err != nil {
			return nil, "", err
		}
		if i == 0 {
			key = value
			names = append(names, escape(value)+of)
		} else {
			names = append(names, escape(value)+"*"+of)
		}
	}
	return names, key, nil
}

// escape makes a key part of a file's name. What begins alike begins alike escaped.
func escape(key string) string {
	var b strings.Builder
	b.WriteString("k")
	for _, c := range []byte(key) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	if b.Len() > 180 {
		return b.String()[:140] + fmt.Sprintf("%x", sha256.Sum256([]byte(key)))[:32]
	}
	return b.String()
}

// restore restores the cache before the first phase.
func (r *runner) restore(ctx context.Context) error {
	if len(r.spec.Cache.Paths) == 0 {
		return nil
	}
	var err error
	if r.cacheFiles, r.cacheKey, err = r.cacheNames(ctx); err != nil || len(r.cacheFiles) == 0 || !r.spec.Cache.Restore {
		return err
	}
	var script strings.Builder
	fmt.Fprintf(&script, "cd %s 2>/dev/null || exit 0\n", archives)
	for _, name := range r.cacheFiles {
		fmt.Fprintf(&script, "[ -n \"$f\" ] || f=$(ls -t -- %s 2>/dev/null | head -n 1)\n", name)
	}
	script.WriteString("[ -z \"$f\" ] || { tar -xpPf \"$f\" && echo \"<$f>\"; }\nexit 0")
	var said bytes.Buffer
	if _, err := r.command(ctx, "f=\n"+script.String(), "", &bounded{w: &said, left: maxValue}); err != nil {
		return err
	}
	switch out := said.String(); {
	case strings.Contains(out, "<"+r.cacheFiles[0]+">"):
		r.cacheHit = r.cacheKey != ""
		r.log.Note("cache: restored%s", r.ofKey())
	case strings.Contains(out, ">"):
		r.log.Note("cache: nothing is kept%s; restored from one that a fallback key names", r.ofKey())
	default:
		r.log.Note("cache: nothing is kept%s yet", r.ofKey())
	}
	return nil
}

func (r *runner) ofKey() string {
	if r.cacheKey == "" {
		return ""
	}
	return fmt.Sprintf(" for the key %q", r.cacheKey)
}

// save saves the cache of a green build. A key's archive is never written again.
func (r *runner) save(ctx context.Context) error {
	if r.result.Status != Succeeded || len(r.cacheFiles) == 0 || !r.spec.Cache.Save || r.cacheHit {
		return nil
	}
	var script strings.Builder
	fmt.Fprintf(&script, "mkdir -p %[1]s && cd %[2]s || exit 1\nto=%[1]s/%[3]s\n", archives, SourceDir, r.cacheFiles[0])
	if r.cacheKey != "" {
		script.WriteString("[ ! -e \"$to\" ] || exit 0\n")
	}
	script.WriteString("IFS=\n{\n")
	for _, p := range r.spec.Cache.Paths {
		script.WriteString(listOf(p))
	}
	script.WriteString(
		"} | LC_ALL=C sort -u | tar -cPf \"$to.new\" --verbatim-files-from -T - && mv \"$to.new\" \"$to\" && echo '<saved>'\nexit 0")
	var said bytes.Buffer
	if _, err := r.command(ctx, script.String(), "", &bounded{w: &said, left: maxValue}); err != nil {
		return err
	}
	if strings.Contains(said.String(), "<saved>") {
		r.log.Note("cache: saved%s", r.ofKey())
	} else {
		r.log.NoteAbout("warning", "cache: could not be saved: %s", strings.TrimSpace(said.String()))
	}
	return nil
}

// listOf is shell text that prints the paths that a pattern of a cache matches, a
// line each, absolute. A directory stands for all that is in it.
func listOf(pattern string) string {
	p := path.Clean(strings.NewReplacer("'", "", "\n", "").Replace(pattern))
	for _, all := range []string{"/**/*", "/**", "/*"} {
		p = strings.TrimSuffix(p, all)
	}
	if !path.IsAbs(p) {
		p = path.Join(SourceDir, p)
	}
	before, _, deep := strings.Cut(p, "**")
	if deep {
		return fmt.Sprintf("find %s -path %s -prune -print 2>/dev/null\n", quote(path.Clean(before)),
			quote(strings.ReplaceAll(p, "/**", "/*")))
	}
	return fmt.Sprintf("for f in %s; do [ ! -e \"$f\" ] || printf '%%s\\n' \"$f\"; done\n", globbed(p))
}

// globbed quotes all of a pattern but what makes it one.
func globbed(p string) string {
	var b strings.Builder
	for _, c := range p {
		if strings.ContainsRune("*?[]", c) {
			b.WriteRune(c)
		} else {
			b.WriteString(quote(string(c)))
		}
	}
	return b.String()
}
