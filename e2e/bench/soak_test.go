package bench

import (
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

var (
	soak      = flag.Duration("soak", 0, "how long BenchmarkSoak keeps a server busy; 0 leaves it out")
	soakEvery = flag.Duration("soak-every", time.Minute, "how often BenchmarkSoak looks at the server")
)

// soakLandings is how many landings there were before. What is read of each is about
// a dozen objects, among them a commit with a message of soakMessage bytes, and of all
// of them twice as much as the server keeps of objects.
const (
	soakLandings = 3000
	soakMessage  = 16 << 10
)

// BenchmarkSoak keeps one server busy with everything that people do, for hours, and
// prints by how much an hour grows what must not grow: memory, descriptors,
// goroutines, processes, files that are not records. Its repository has had landings
// enough that caches are full after everything was read once, which is proven: the last
// of what is read must not grow the heap. The first third of the time is not counted all
// the same.
func BenchmarkSoak(b *testing.B) {
	if *soak == 0 {
		b.Skip("this takes hours: make soak")
	}
	w := newHarness(b)
	// The runtime's own reports: what lives after each collection, and every goroutine.
	w.godebug = fmt.Sprintf("gctrace=1,schedtrace=%d,scheddetail=1", soakEvery.Milliseconds()/10)
	files := buildspec("\"! grep red words.txt\"")
	files["buildspec.yml"] += "artifacts:\n  files: [serve.pl, words.txt]\n"
	files["serve.pl"] = serviceProgram
	files["headgate.yaml"] = "environments:\n  staging: {target: services, path: deploy/staging}\n"
	files["deploy/staging/compose.yaml"] = composeFile
	w.serve(b, files)
	c := w.headgate(b, "ours")
	c.body = "\n\n" + strings.Repeat("It was said before, and it will be said again.\n", soakMessage/48)
	c.commit(b, 0)
	c.push(b, "HEAD:main")
	w.stagingURL(b)
	w.stop()
	w.imitate(b, soakLandings)
	c.fetchMain(b, w)
	w.run(b, w.dir, "ssh", w.login(w.SSH, "change", "list", "hello", "--all")...)
	browser := w.browser(b)
	w.fill(b, browser)

	began := time.Now()
	var seen []figures
	for round := 1; time.Since(began) < *soak; round++ {
		w.busy(b, c, browser, round)
		if time.Since(began) >= time.Duration(len(seen))**soakEvery {
			seen = append(seen, w.look(b, time.Since(began), round))
			fmt.Printf("%s\n", seen[len(seen)-1])
		}
	}
	counted := seen[len(seen)/3:]
	if len(counted) < 3 {
		b.Fatalf("looked at the server %d times: too few for a slope; give -soak more, or -soak-every less", len(seen))
	}
	printSlopes(counted)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(slope(counted, func(s figures) float64 { return s.heap }), "heap-MiB/h")
	b.ReportMetric(slope(counted, func(s figures) float64 { return s.goroutines }), "goroutines/h")
	b.ReportMetric(slope(counted, func(s figures) float64 { return s.descriptors }), "descriptors/h")
}

// fill reads all that there is of every landing, until that grows the heap no more.
func (w *harness) fill(b *testing.B, browser *http.Client) {
	b.Helper()
	const parts, flat = 10, 3 // MiB
	began := time.Now()
	var live []float64
	for n := range soakLandings {
		for _, page := range []string{"/hello/changes/%d", "/hello/changes/%d/diff", "/hello/releases/%d"} {
			w.open(b, browser, fmt.Sprintf(page, n+1))
		}
		if (n+1)%(soakLandings/parts) == 0 {
			s := w.look(b, time.Since(began), 0)
			live = append(live, s.heap)
			fmt.Printf("%8s  %d landings were read, heap %.0f MiB\n", s.at.Round(time.Second), n+1, s.heap)
		}
	}
	grown := (live[parts-1] + live[parts-2] - live[parts-3] - live[parts-4]) / 2
	if grown > flat {
		b.Fatalf("a fifth more of the landings grew the heap by %.0f MiB: caches are not full", grown)
	}
}

// busy is one round of what people do.
func (w *harness) busy(b *testing.B, c *clone, browser *http.Client, round int) {
	b.Helper()
	c.commit(b, round)
	c.push(b, "HEAD:main") // built, landed, released, promoted, rolled out
	branch := fmt.Sprintf("work-%d", round)
	c.git(b, "push", "-q", "origin", "HEAD:refs/heads/"+branch)
	c.git(b, "push", "-q", "origin", ":refs/heads/"+branch)
	again := path(w.dir, "again")
	w.run(b, w.dir, "git", "clone", "-q", "ssh://"+w.SSH+"/hello", again)
	if err := os.RemoveAll(again); err != nil {
		b.Fatal(err)
	}
	if round%3 == 0 { // a change that is refused
		if err := os.WriteFile(path(c.dir, "words.txt"), fmt.Appendf(nil, "red %d\n", round), 0o644); err != nil {
			b.Fatal(err)
		}
		c.git(b, "commit", "-q", "-am", "Say it wrong"+c.body)
		w.try(b, c.dir, "git", "push", "-q", "origin", "HEAD:main")
		c.git(b, "reset", "-q", "--hard", "HEAD^")
	}
	for _, command := range []string{"change list hello", "release list hello", "env show hello staging",
		"why hello staging", "whoami"} {
		w.try(b, w.dir, "ssh", w.login(w.SSH, strings.Fields(command)...)...)
	}
	// Somebody follows a log and goes away.
	following := exec.Command("ssh", w.login(w.SSH, "env", "logs", "-f", "hello", "staging")...)
	following.Env = w.env()
	if err := following.Start(); err != nil {
		b.Fatal(err)
	}
	change := fmt.Sprintf("/hello/changes/%d", soakLandings+round)
	for _, page := range []string{"/", "/hello", change, "/hello/env/staging", "/healthz", "/nothing/here"} {
		w.open(b, browser, page)
	}
	_ = following.Process.Kill()
	_ = following.Wait() // it was killed
}

// open reads a page of the console, whatever it says.
func (w *harness) open(b *testing.B, browser *http.Client, page string) {
	b.Helper()
	resp, err := browser.Get(w.HTTP + page)
	if err != nil {
		b.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if asked := resp.Request.URL.Path; asked != page {
		b.Fatalf("asked for %s, and was sent to %s", page, asked)
	}
}

// try runs a program that may be refused.
func (w *harness) try(b *testing.B, dir, name string, args ...string) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, w.env(), time.Second
	_ = cmd.Run() // the refusal is the outcome
	if ctx.Err() != nil {
		b.Fatalf("%s %v did not end", name, args)
	}
}

// browser is signed in to the console.
func (w *harness) browser(b *testing.B) *http.Client {
	b.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		b.Fatal(err)
	}
	// Browsers know that *.localhost is this machine; Go asks its resolver.
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	}}
	client := &http.Client{Jar: jar, Timeout: waitTimeout, Transport: transport}
	said := w.run(b, w.dir, "ssh", w.login(w.SSH, "login")...)
	code := regexp.MustCompile(`code=(\S+)`).FindStringSubmatch(said)
	if code == nil {
		b.Fatalf("login printed no code: %q", said)
	}
	sent := url.Values{"code": {code[1]}, "to": {"/"}}
	req, err := http.NewRequest(http.MethodPost, w.HTTP+"/sign-in", strings.NewReader(sent.Encode()))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", w.HTTP) // acts come from the console's own pages
	resp, err := client.Do(req)
	if err != nil {
		b.Fatalf("sign in with %q: %v", said, err)
	}
	resp.Body.Close()
	if at := resp.Request.URL.Path; at != "/" {
		b.Fatalf("sign in with %q: sent to %s", said, at)
	}
	return client
}

// figures are what one look at the server saw.
type figures struct {
	at                                                       time.Duration
	rounds                                                   int
	heap, resident                                           float64 // MiB
	goroutines, descriptors, threads, children, files, loose float64
}

func (s figures) String() string {
	return fmt.Sprintf(
		"%8s  %5d rounds  heap %.0f MiB  resident %.0f MiB  %.0f goroutines  %.0f descriptors  %.0f threads  %.0f children  %.0f files  %.0f loose objects",
		s.at.Round(
			time.Second), s.rounds, s.heap, s.resident, s.goroutines, s.descriptors, s.threads, s.children, s.files, s.loose)
}

var collected = regexp.MustCompile(`^gc \d+ @.* (\d+)->(\d+)->(\d+) MB`)

// look reads what the kernel and the runtime say of the server. The runtime says it
// in the server's log, which is emptied. Of what lives, and of goroutines, the least since
// the last look counts: what is there for a request that is being answered goes with it,
// and what leaks does not.
func (w *harness) look(b *testing.B, at time.Duration, rounds int) figures {
	b.Helper()
	s := figures{at: at, rounds: rounds}
	log := path(w.dir, "server.log")
	text, err := os.ReadFile(log)
	if err != nil {
		b.Fatal(err)
	}
	running := -1.0 // goroutines of the report that is read: a whole one, from its head to the next
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch m := collected.FindStringSubmatch(line); {
		case m != nil:
			live, _ := strconv.ParseFloat(m[3], 64)
			if s.heap == 0 || live < s.heap {
				s.heap = live
			}
		case strings.HasPrefix(line, "SCHED "):
			if running > 0 && (s.goroutines == 0 || running < s.goroutines) {
				s.goroutines = running
			}
			running = 0
		case strings.HasPrefix(line, "G") && strings.Contains(line, ": status=") && !strings.Contains(line, ": status=6("): // 6: ended
			if running >= 0 {
				running++
			}
		}
	}
	if err := os.Truncate(log, 0); err != nil {
		b.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d/", w.server)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		b.Fatal("the server is gone: ", err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		switch name {
		case "VmRSS":
			s.resident = n / 1024
		case "Threads":
			s.threads = n
		}
	}
	open, err := os.ReadDir(proc + "fd")
	if err != nil {
		b.Fatal(err)
	}
	s.descriptors = float64(len(open))
	tasks, _ := filepath.Glob(proc + "task/*/children")
	for _, task := range tasks {
		children, _ := os.ReadFile(task)
		s.children += float64(len(strings.Fields(string(children))))
	}
	for _, dir := range []string{"run", "work", "hooks", "keys", "tokens", "events"} {
		s.files += count(path(w.dir, "data", dir))
	}
	dirs, _ := filepath.Glob(path(w.dir, "data", "repositories", "hello.git", "objects", "[0-9a-f][0-9a-f]"))
	for _, dir := range dirs {
		s.loose += count(dir)
	}
	return s
}

// count is how many files there are below a directory; some go while it counts.
func count(dir string) (n float64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return nil
	})
	return n
}

// slope is by how much something grows an hour: the line of least squares.
func slope(seen []figures, of func(figures) float64) float64 {
	var x, y, xx, xy float64
	n := float64(len(seen))
	for _, s := range seen {
		h, v := s.at.Hours(), of(s)
		x, y, xx, xy = x+h, y+v, xx+h*h, xy+h*v
	}
	if n*xx == x*x {
		return 0
	}
	return (n*xy - x*y) / (n*xx - x*x)
}

func printSlopes(seen []figures) {
	first, last := seen[0], seen[len(seen)-1]
	rounds := last.rounds - first.rounds
	fmt.Printf("\nsoak: %s, %d rounds, from %s on\n", last.at.Round(time.Second), last.rounds, first.at.Round(time.Second))
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  \tfirst\tlast\ta round\tan hour\tgoal\t")
	for _, row := range []struct {
		name  string
		of    func(figures) float64
		limit float64 // growth a round, at most
	}{
		// What the server remembers of each change and release grows, by a few KiB.
		{"live heap, MiB", func(s figures) float64 { return s.heap }, 0.02},
		{"resident, MiB", func(s figures) float64 { return s.resident }, 0.04},
		{"goroutines", func(s figures) float64 { return s.goroutines }, 0.01},
		{"descriptors", func(s figures) float64 { return s.descriptors }, 0.01},
		{"threads", func(s figures) float64 { return s.threads }, 0.01},
		{"child processes", func(s figures) float64 { return s.children }, 0.01},
		{"files that are no records", func(s figures) float64 { return s.files }, 0.01},
		{"loose objects", func(s figures) float64 { return s.loose }, 0}, // up to --pack-after, and down again
	} {
		hour := slope(seen, row.of)
		each := hour * (last.at - first.at).Hours() / float64(max(rounds, 1))
		goal := ""
		if row.limit > 0 {
			goal = fmt.Sprintf("at most %.2f a round: %s", row.limit, met(each <= row.limit))
		}
		fmt.Fprintf(t, "  %s\t%.1f\t%.1f\t%+.4f\t%+.2f\t%s\t\n", row.name, row.of(first), row.of(last), each, hour, goal)
	}
	t.Flush()
}

func TestSlope(t *testing.T) {
	var seen []figures
	for i := range 10 {
		seen = append(seen, figures{at: time.Duration(i) * time.Minute, heap: 5 + float64(i)/6})
	}
	if got := slope(seen, func(s figures) float64 { return s.heap }); got < 9.99 || got > 10.01 {
		t.Errorf("a sixth a minute is %v an hour, want 10", got)
	}
}
