package build

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/hooks/build/buildlog"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
)

// symptoms passes on what a command prints and notices what programs say when they
// lack something that builds here do not have.
type symptoms struct {
	out     io.Writer
	network bool
	write   string // the path that could not be written; "?" for one that was not named
	change  string // the path of the system that could not be changed in place
	missing string // the program that was not found
	users   bool   // somebody could not become, or give a file to, another user
	full    bool
	tail    []byte // of what was printed: a sentence may come in two pieces
}

// noNetwork is what resolvers and clients say.
var noNetwork = [][]byte{
	[]byte("Could not resolve host"),
	[]byte("could not resolve host"),
	[]byte("Temporary failure in name resolution"),
	[]byte("Temporary failure resolving"),
	[]byte("Name or service not known"),
	[]byte("no such host"),
	[]byte("server misbehaving"),
	[]byte("dial tcp: lookup "),
	[]byte("getaddrinfo EAI_AGAIN"),
	[]byte("getaddrinfo ENOTFOUND"),
	[]byte("Network is unreachable"),
	[]byte("network is unreachable"),
	[]byte("UnknownHostException"),
	[]byte("bad address '"), // busybox
}

var (
	readOnly = regexp.MustCompile(`([^\s:'"‘’]*)['"‘’]?: Read-only file system`)
	inPlace  = regexp.MustCompile(`\.?(/(?:usr|opt|etc|var)/[^\s:'"‘’]+)['"‘’]?[^:\n]*: ` +
		`(?:Permission denied|Operation not permitted|Value too large for defined data type)`)
	lone = regexp.MustCompile(`(?:changing (?:ownership|group) of |[cC]annot change ownership|failed to preserve ownership|cannot set (?:groups|user id|group id)|` +
		`(?:setgroups|set(?:res?)?[ug]id) failed|chown)[^\n]*(?:Invalid argument|Operation not permitted|Permission denied)`)
	notFound = regexp.MustCompile(`(?m)script\.sh: (?:line )?\d+: ([^\s:]+): (?:command )?not found`)
)

// longest is how much of what was printed is looked at twice.
const longest = 512

func (w *symptoms) Write(p []byte) (int, error) {
	w.look(p)
	return w.out.Write(p)
}

func (w *symptoms) look(p []byte) {
	for len(p) > 0 {
		some := p[:min(len(p), 64<<10)]
		p = p[len(some):]
		w.tail = append(w.tail, some...)
		if !w.network && slices.ContainsFunc(noNetwork, func(said []byte) bool { return bytes.Contains(w.tail, said) }) {
			w.network = true
		}
		if w.write == "" && (bytes.Contains(w.tail, []byte("ead-only file system")) ||
			bytes.Contains(w.tail, []byte("EROFS"))) {
			w.write = "?"
			if m := readOnly.FindSubmatch(w.tail); m != nil && len(m[1]) > 0 {
				w.write = string(m[1])
			}
		}
		if w.change == "" && (bytes.Contains(w.tail, []byte("ermi")) || bytes.Contains(w.tail, []byte("Value too large"))) {
			if m := inPlace.FindSubmatch(w.tail); m != nil {
				w.change = string(m[1])
			}
		}
		if !w.users && (bytes.Contains(w.tail, []byte("nvalid argument")) || bytes.Contains(w.tail, []byte("ermi"))) {
			w.users = lone.Match(w.tail)
		}
		if !w.full && (bytes.Contains(w.tail, []byte("No space left on device")) ||
			bytes.Contains(w.tail, []byte("ENOSPC"))) {
			w.full = true
		}
		if bytes.Contains(w.tail, []byte("not found")) {
			if m := notFound.FindSubmatch(w.tail); m != nil {
				w.missing = string(m[1])
			}
		}
		if n := len(w.tail) - longest; n > 0 {
			w.tail = append(w.tail[:0], w.tail[n:]...)
		}
	}
}

// explain says in a line what a failed command probably lacked, and which setting
// gives it.
func (r *runner) explain(said *symptoms, command string, exit int) {
	hint := func(format string, args ...any) { r.log.NoteAbout(buildlog.Warning, format, args...) }
	if said.network && !r.req.Network {
		hint("this build reaches no network: the line \"build: {network: true}\" in headgate.yaml%s allows it", r.onBranch())
	}
	if said.write != "" {
		what := said.write
		if what == "?" {
			what = "a path of the system"
		}
		hint("%s cannot be written in builds on this machine: write to $CODEBUILD_SRC_DIR, $HOME or /tmp", what)
	}
	if said.change != "" && r.req.Image == "" && os.Geteuid() != 0 {
		hint("files of the system such as %s can be replaced and removed here, not changed in place or given away: "+
			"this server is not root; name an image for the build, or copy the file to where it belongs", said.change)
	}
	if said.users && r.req.Image == "" && os.Geteuid() != 0 {
		hint("a build on this machine has one user, root, for this server is not root: nobody can become another user or own a " +
			"file; name an image for the build, or have an administrator run the server as root")
	}
	if said.full {
		hint(
			"the disk of this server is full: an administrator can make room, and build: {limits: {disk: …}} keeps builds from filling it")
	}
	if exit == 127 && said.missing != "" {
		lacking, where := "on this machine", "install it on the server, or in the phase install"
		if r.req.Image != "" {
			lacking, where = "in the image", "name another in build: {image: …}, or install it in the phase install"
		}
		if !r.req.Network {
			where += ", which needs build: {network: true}"
		}
		hint("%s is not %s: %s", said.missing, lacking, where)
	}
	if r.spec.Shell == "sh" {
		if b, _ := buildspec.Bashism(command); b != "" {
			hint("%s is Bash, and this command ran in sh: write env: {shell: bash} in %s", b, r.file)
		}
	}
	if names := r.unset(command); len(names) > 0 && r.req.Image == "" { // which may set any
		hint("%s is not set here: a line such as \"build: {variables: {%s: …}}\" in headgate.yaml%s sets it",
			strings.Join(names, ", "), names[0], r.onBranch())
	}
}

// onBranch is where the settings are taken from that say what a build reaches.
func (r *runner) onBranch() string {
	if r.req.Branch == "" {
		return ""
	}
	return " on " + r.req.Branch
}

// unset are the variables that a failed command reads and nothing sets.
func (r *runner) unset(command string) []string {
	env := r.environment()
	known := map[string]bool{"PWD": true, "OLDPWD": true, "IFS": true, "SHELL": true, "HOSTNAME": true, "UID": true,
		"RANDOM": true, "SECONDS": true, "PPID": true}
	for _, s := range r.spec.Secrets {
		known[s.Variable] = true // the log says so when it is not set
	}
	for _, p := range r.spec.Phases {
		for _, c := range slices.Concat(p.Commands, p.Finally) {
			_, sets, open := buildspec.Variables(c)
			if open {
				return nil
			}
			for _, name := range sets {
				known[name] = true
			}
		}
	}
	reads, _, _ := buildspec.Variables(command)
	slices.Sort(reads)
	return slices.DeleteFunc(slices.Compact(reads), func(name string) bool {
		_, set := env[name]
		return set || known[name] || strings.HasPrefix(name, "BASH") || strings.HasPrefix(name, "CODEBUILD_")
	})
}
