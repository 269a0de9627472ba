package main

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is what this binary says it is: the module's version, or the commit
// it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value[:min(12, len(s.Value))]
		}
	}
	return v
}

func versionCommand() command {
	return command{
		name: "version", short: "print the version",
		long: "headgate version prints the version and the Go release it was built with.",
		setup: func(*flag.FlagSet) func(context.Context, printer, []string) error {
			return func(_ context.Context, p printer, _ []string) error {
				_, err := fmt.Fprintf(p.out, "headgate %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return err
			}
		},
	}
}
