package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/cmd/internal/server"
	"github.com/headgate-cd/headgate/gitd/repo"
)

func keyCommand() command {
	return command{
		name: "key", args: "rotate host",
		short: "give the server another SSH host key, on purpose",
		long: `
headgate key rotate --data /var/lib/headgate host

Makes another SSH host key, for a server whose key is lost or has become known to
others. The server must be stopped. The old key, if it is there, is kept beside the
new one. Every client is warned of the new key and must be told its fingerprint.

The signing key (keys/server) cannot be rotated yet: restore it from a backup.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			data := flags.String("data", "./data", "directory that holds everything the server keeps")
			return func(ctx context.Context, p printer, args []string) error {
				if len(args) == 2 && args[0] == "rotate" && args[1] == "server" {
					return errors.New("the signing key cannot be rotated yet\n" +
						"hint: only a copy of keys/server continues what it signed; restore it from a backup")
				}
				if len(args) != 2 || args[0] != "rotate" || args[1] != "host" {
					return usageError{"usage: headgate key rotate --data <directory> host"}
				}
				return rotateHostKey(p, *data)
			}
		},
	}
}

func rotateHostKey(p printer, data string) error {
	lock, err := server.Lock(data)
	if err != nil {
		return err
	}
	defer lock.Close()

	path := filepath.Join(data, "keys", "host")
	if err := repo.MakeDir(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("rotate the host key: %w", err)
	}
	key, err := repo.OpenKey(fresh)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(path)
	if err == nil && len(old) > 0 {
		kept := path + "." + time.Now().UTC().Format("20060102T150405Z")
		if err := repo.WriteFile(kept, old, 0o600); err != nil {
			return fmt.Errorf("keep the old host key: %w", err)
		}
		fmt.Fprintf(p.out, "the old key is kept at %s\n", kept)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keep the old host key: %w", err)
	}
	if err := repo.Rename(fresh, path); err != nil {
		return fmt.Errorf("rotate the host key: %w", err)
	}
	fmt.Fprintf(p.out, "the host key is %s now; tell it to whoever uses this server\n", ssh.FingerprintSHA256(key.PublicKey()))
	return nil
}
