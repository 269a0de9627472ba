package build

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/headgate-cd/headgate/hooks/build/buildlog"
)

// runtimeScript looks for a version of a runtime on the machine, puts it first in
// PATH when another comes before it, and says what it found: $1 is the runtime,
// $2 its version, "" for any.
const runtimeScript = `
headgate_runtime() {
	want=$2 dir= home=
	case $1 in
	golang) program=go ask='go version' at="/usr/local/go$want*/bin /usr/local/go-$want*/bin /usr/lib/go-$want*/bin /opt/go$want*/bin" ;;
	nodejs) program=node ask='node --version' at="/opt/node-v$want*/bin /opt/node$want*/bin /usr/local/node-v$want*/bin /usr/local/n/versions/node/$want*/bin" ;;
	python) program=python3 ask='python3 --version' at="/opt/python/$want*/bin /opt/python$want*/bin /usr/local/python$want*/bin" ;;
	java) program=java ask='java -version' at="/usr/lib/jvm/java-$want-*/bin /usr/lib/jvm/java-$want.*/bin /usr/lib/jvm/*-$want/bin /usr/lib/jvm/*-$want-*/bin /opt/jdk-$want*/bin /opt/java/$want*/bin" ;;
	ruby) program=ruby ask='ruby --version' at="/opt/ruby-$want*/bin /opt/ruby/$want*/bin /opt/rubies/ruby-$want*/bin" ;;
	php) program=php ask='php --version' at="/opt/php-$want*/bin" ;;
	dotnet) program=dotnet ask='dotnet --version' at="/opt/dotnet-$want* /usr/share/dotnet /usr/lib/dotnet" ;;
	android) program=sdkmanager ask='sdkmanager --version' at=/opt/android-sdk/cmdline-tools/latest/bin ;;
	esac
	has() { command -v "$program" >/dev/null 2>&1 && found=$($ask 2>&1 | head -n 1 | tr -cd '0-9.\n _a-zA-Z-' | grep -oE '[0-9]+(\.[0-9_]+)*' | head -n 1) && [ -n "$found" ]; }
	fits() { case $found. in "$want".*) true ;; 1."$want".*) [ "$1" = java ] ;; *) [ -z "$want" ] ;; esac; }
	if has && fits "$1"; then echo "$1 $found"; return; fi
	before=${found-}
	for dir in $at; do
		[ -x "$dir/$program" ] || continue
		old=$PATH PATH=$dir:$PATH
		if has && fits "$1"; then
			[ "$1" != java ] || export JAVA_HOME="${dir%/bin}"
			echo "$1 $found ($dir)"
			return
		fi
		PATH=$old
	done
	if [ "$1" = python ] && [ -n "$want" ] && command -v "python$want" >/dev/null 2>&1; then
		mkdir -p "$HOME/.headgate/python" && ln -sf "$(command -v "python$want")" "$HOME/.headgate/python/python3" && ln -sf python3 "$HOME/.headgate/python/python"
		PATH=$HOME/.headgate/python:$PATH
		echo "$1 $want (python$want)"
		return
	fi
	echo "!$1 $want $before"
}
`

// runtimes chooses among the versions of languages that the machine has (B38). One
// that is not there is told and fails nothing: the machine's own may do, and a
// command that needs it says so.
func (r *runner) runtimes(ctx context.Context) error {
	wanted := r.spec.Phase("install").Runtimes
	if len(wanted) == 0 {
		return nil
	}
	var script strings.Builder
	script.WriteString(runtimeScript)
	for _, w := range wanted {
		version, err := r.expand(ctx, w.Version)
		if err != nil {
			version = ""
		}
		fmt.Fprintf(&script, "headgate_runtime %s %s\n", w.Name, quote(versionOf(version)))
	}
	script.WriteString("unset want dir home program ask at found before old; true")
	var said bytes.Buffer
	if _, err := r.command(ctx, script.String(), "", &bounded{w: &said, left: maxValue}); err != nil {
		return err
	}
	for line := range strings.Lines(said.String()) {
		line = strings.TrimSpace(line)
		missing, ok := strings.CutPrefix(line, "!")
		if !ok {
			r.log.Note("runtime %s", line)
			continue
		}
		part := append(strings.Split(missing, " "), "", "")
		switch name, version, have := part[0], part[1], part[2]; {
		case have != "":
			r.log.NoteAbout(buildlog.Warning,
				"Skipping install of runtimes. %s %s is asked for; this machine has %s, which is used", name, version, have)
		default:
			r.log.NoteAbout(buildlog.Warning, "Skipping install of runtimes. %s is asked for; this machine has none",
				strings.TrimSpace(name+" "+version))
		}
	}
	return nil
}

// versionOf makes of "18.x", "corretto17", "openjdk11" or "latest" the beginning
// of a version.
func versionOf(text string) string {
	text = strings.TrimLeft(text, "abcdefghijklmnopqrstuvwxyz-")
	text = strings.TrimSuffix(strings.TrimSuffix(text, "x"), ".")
	return strings.Trim(text, ".*")
}

// bounded lets go of what is over a bound.
type bounded struct {
	w    io.Writer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	n, err := b.w.Write(p[:min(len(p), b.left)])
	b.left -= n
	return len(p), err
}
