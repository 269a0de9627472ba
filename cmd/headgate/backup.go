package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"golang.org/x/term"

	"github.com/headgate-cd/headgate/cmd/internal/backup"
	"github.com/headgate-cd/headgate/cmd/internal/server"
	"github.com/headgate-cd/headgate/gitd/show"
)

func backupCommand() command {
	return command{
		name: "backup", args: "<directory>|-",
		short: "copy everything that a server keeps, while it runs",
		long: `
headgate backup --data /var/lib/headgate --recipient age1... /backup/headgate
headgate backup --data /var/lib/headgate --passphrase-file pass - | ssh vault 'cat >headgate.tar'

Copies every repository, the artifacts that environments and their holds need, which
version each function is at, and the keys, secrets and tokens, these encrypted with
age. Run it beside the server,
as its user: nobody waits for it. The refs of each repository are read until they
stood still, then what they reach is copied, then the refs are written at once, so
that a backup that is cut off is the former one.

To a directory only what is new is copied. To standard output ("-") all goes, as a
tar; it is put together in the directory for temporary files.

Left out: logs of builds, unless --logs is given, those of services, webhooks that
wait, and what is installed on this machine (--deploy-here): that
is the machine's. "headgate restore" makes a data directory of it.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			data := flags.String("data", "./data", "`directory` that holds everything the server keeps")
			var recipients list
			flags.Var(&recipients, "recipient", "age `recipient` who can read the keys; may be given again")
			passphrase := flags.String("passphrase-file", "", "`file` with a passphrase for the keys, instead of recipients")
			without := flags.Bool("without-keys", false,
				"leave out keys, secrets and tokens; nothing can be signed as before after a restore")
			logs := flags.Bool("logs", false, "copy the logs of builds too")
			return func(ctx context.Context, p printer, args []string) error {
				if len(args) != 1 {
					return usageError{"backup takes a directory, or - for standard output"}
				}
				o := backup.Options{Data: *data, Version: version(), Logs: *logs, Now: time.Now()}
				for _, r := range recipients {
					parsed, err := age.ParseRecipients(strings.NewReader(r))
					if err != nil {
						return usageError{fmt.Sprintf("--recipient %s is none of age's: %v", r, err)}
					}
					o.Recipients = append(o.Recipients, parsed...)
				}
				if *passphrase != "" {
					text, err := readPassphrase(*passphrase)
					if err != nil {
						return err
					}
					r, err := age.NewScryptRecipient(text)
					if err != nil {
						return err
					}
					o.Recipients = append(o.Recipients, r)
				}
				switch {
				case *passphrase != "" && len(recipients) > 0:
					return usageError{"give --recipient or --passphrase-file, not both"}
				case len(o.Recipients) == 0 && !*without:
					return usageError{"say for whom the keys are encrypted: --recipient or --passphrase-file; or leave them out: --without-keys"}
				}
				return runBackup(ctx, p, o, args[0])
			}
		},
	}
}

func readPassphrase(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	if len(line) < 8 {
		return "", fmt.Errorf("the first line of %s, the passphrase, is shorter than 8 characters", path)
	}
	return string(line), nil
}

func runBackup(ctx context.Context, p printer, o backup.Options, to string) error {
	dir, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	if o.Data, err = filepath.Abs(o.Data); err != nil {
		return err
	}
	if to == "-" {
		if f, ok := p.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return usageError{"standard output is a terminal; send it to a file"}
		}
		if dir, err = os.MkdirTemp("", "headgate-backup-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	about, err := backup.Write(ctx, o, dir)
	if err != nil {
		return err
	}
	if to == "-" {
		if err := backup.Tar(p.out, dir); err != nil {
			return fmt.Errorf("write the backup: %w", err)
		}
	}
	keys := "keys, encrypted"
	if !about.Keys {
		keys = "no keys"
	}
	fmt.Fprintf(p.err, "backed up: %s, %s, %s\n", show.Plural(len(about.Repositories), "repository"),
		show.Plural(about.Artifacts, "artifact"), keys)
	for _, digest := range about.Missing {
		fmt.Fprintf(p.err, "warning: artifact %s, which an environment names, is gone already\n", digest)
	}
	return nil
}

func restoreCommand() command {
	return command{
		name: "restore", args: "<directory>|<file>|-",
		short: "make a data directory of a backup",
		long: `
headgate restore --data /var/lib/headgate --identity key.txt /backup/headgate
headgate restore --data ./data --passphrase-file pass headgate.tar

Makes the data directory, which must be absent or empty, of what "headgate backup"
wrote, and checks that every object which a ref reaches is there. It is there whole
or not at all. Then start the server with it: environments come up as they were
declared, and clients know its host key.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			data := flags.String("data", "./data", "`directory` to make")
			identity := flags.String("identity", "", "`file` with the age identity that the keys were encrypted for")
			passphrase := flags.String("passphrase-file", "", "`file` with the passphrase that they were encrypted with")
			without := flags.Bool("without-keys", false, "restore no keys, secrets and tokens")
			return func(ctx context.Context, p printer, args []string) error {
				if len(args) != 1 {
					return usageError{"restore takes a backup: a directory, a file, or - for standard input"}
				}
				identities, err := readIdentities(*identity, *passphrase)
				if err != nil {
					return err
				}
				abs, err := filepath.Abs(*data)
				if err != nil {
					return err
				}
				return runRestore(ctx, p, args[0], abs, identities, *without)
			}
		},
	}
}

func readIdentities(identity, passphrase string) (all []age.Identity, err error) {
	if identity != "" {
		f, err := os.Open(identity)
		if err != nil {
			return nil, fmt.Errorf("read the identity: %w", err)
		}
		defer f.Close()
		if all, err = age.ParseIdentities(f); err != nil {
			return nil, fmt.Errorf("read the identity %s: %w", identity, err)
		}
	}
	if passphrase != "" {
		text, err := readPassphrase(passphrase)
		if err != nil {
			return nil, err
		}
		i, err := age.NewScryptIdentity(text)
		if err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, nil
}

func runRestore(ctx context.Context, p printer, from, data string, identities []age.Identity, without bool) error {
	if from != "-" {
		abs, err := filepath.Abs(from)
		if err != nil {
			return err
		}
		from = abs
	}
	info, err := os.Stat(from)
	if from != "-" && err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	if from == "-" || !info.IsDir() {
		var in io.Reader = os.Stdin
		if from != "-" {
			f, err := os.Open(from)
			if err != nil {
				return fmt.Errorf("read the backup: %w", err)
			}
			defer f.Close()
			in = f
		}
		dir, err := os.MkdirTemp("", "headgate-restore-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if err := backup.Untar(in, dir); err != nil {
			return fmt.Errorf("read the backup: %w", err)
		}
		from = dir
	}
	about, err := backup.Restore(ctx, from, data, identities, without)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.out, "restored to %s: %s of %s\n", data, show.Plural(len(about.Repositories), "repository"),
		about.At.Format("2006-01-02 15:04:05 UTC"))
	if err := server.CheckHistory(data); err != nil {
		return errors.Join(errors.New("the server will not start yet"), err)
	}
	fmt.Fprintf(p.out, "start it: headgate serve --data %s\n", data)
	return nil
}
