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
		name: "key", args: "rotate host|server",
		short: "give the server another host key or signing key, on purpose",
		long: `
headgate key rotate --data /var/lib/headgate server
headgate key rotate --data /var/lib/headgate host

Makes another key, for a server whose key is lost or has become known to others.
The server must be stopped.

server: the signing key. What the old key signed stays valid, and nothing that it
signs from now on is: each repository records, in refs/keys/log, where all its refs
are at the change, signed by the old key if it is there. "ssh host signers" names
both keys; give it anew to whoever verifies.

host: the SSH host key. The old key, if it is there, is kept beside the new one.
Every client is warned of the new key and must be told its fingerprint.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			data := flags.String("data", "./data", "`directory` that holds everything the server keeps")
			return func(ctx context.Context, p printer, args []string) error {
				if len(args) != 2 || args[0] != "rotate" || args[1] != "host" && args[1] != "server" {
					return usageError{"usage: headgate key rotate --data <directory> host|server"}
				}
				dir, err := filepath.Abs(*data)
				if err != nil {
					return err
				}
				lock, err := server.Lock(dir)
				if err != nil {
					return err
				}
				defer lock.Close()
				if args[1] == "host" {
					return rotateHostKey(p, dir)
				}
				return rotateSigningKey(ctx, p, dir)
			}
		},
	}
}

// rotateSigningKey may be cut off at any time and called again: the repositories
// record the new key first, and the server does not start until the key is in place.
func rotateSigningKey(ctx context.Context, p printer, data string) error {
	change, err := server.RotateSigningKey(ctx, data, time.Now())
	if err != nil {
		return fmt.Errorf("rotate the signing key: %w", err)
	}
	how := "and signed the record of the change"
	if change.Lost {
		how = "and is lost: the new key alone says so"
	}
	fmt.Fprintf(p.out, "the signing key is %s now\n", ssh.FingerprintSHA256(change.Key))
	fmt.Fprintf(p.out, "the old one, %s, counts for what it has signed, %s\n", ssh.FingerprintSHA256(change.Former), how)
	fmt.Fprintln(p.out, "start the server, and give \"ssh <server> signers\" to whoever verifies")
	return nil
}

func rotateHostKey(p printer, data string) error {
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
	fmt.Fprintf(p.out, "the host key is %s now; tell it to whoever uses this server\n",
		ssh.FingerprintSHA256(key.PublicKey()))
	return nil
}
