// Image makes an image of one static program, from its file alone, as `docker load` and skopeo read it:
//
//	go run ./.ci/image bin/headgate-kube bin/headgate-kube.tar
//
// The same program gives the same image.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/headgate-cd/headgate/hooks/build/artifact"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: image <program> <archive>")
		os.Exit(2)
	}
	if err := write(context.Background(), os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func write(ctx context.Context, program, archive string) error {
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	store, err := artifact.Open(dir)
	if err != nil {
		return err
	}
	name := filepath.Base(program)
	files, err := store.Pack(ctx, filepath.Dir(program), name, []artifact.File{{Source: name, Path: name}})
	if err != nil {
		return err
	}
	image, err := store.Assemble(ctx, name, files.Digest, "/", artifact.Config{
		Architecture: runtime.GOARCH,
		Entrypoint:   []string{"/" + name},
		User:         "65532:65532",
	})
	if err != nil {
		return err
	}
	out, err := os.Create(archive)
	if err != nil {
		return err
	}
	if err := errors.Join(store.WriteArchive(ctx, image.Digest, out), out.Close()); err != nil {
		return err
	}
	fmt.Printf("%s is an image of %s: skopeo copy docker-archive:%s docker://registry.example.org/%s:1\n", archive, program,
		archive, name)
	return nil
}
