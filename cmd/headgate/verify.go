package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/headgate-cd/headgate/cmd/internal/proof"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/gate"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/reconciler/record"
)

func verifyCommand() command {
	return command{
		name:  "verify",
		args:  "[clone]",
		short: "prove, from a clone and nothing else, that main was never red and nothing unproven was deployed",
		long: `
git clone --mirror ssh://git.example.org/hello
ssh git.example.org signers > signers
headgate verify --signers signers hello.git

Proves of every tip that a gated branch ever had that its tree had a green
verdict before the branch moved; of every release that its signature and its
provenance verify; and of every commit of an environment that it is signed, one
line, and holds exactly a release's bytes. Each record names others: changes and
promotions their decisions, decisions where all other records were. So one that
was rewound or taken away shows, unless it is the newest of all. Exit code 1 when
something is not so, or when there was nothing to prove.

The clone must have all refs, as a mirror has.`,
		setup: func(flags *flag.FlagSet) func(context.Context, printer, []string) error {
			signers := flags.String("signers", "", "`file` of allowed signers (default: the clone's gpg.ssh.allowedSignersFile)")
			asJSON := flags.Bool("json", false, "print one object")
			return func(ctx context.Context, p printer, args []string) error {
				dir := "."
				if len(args) > 1 {
					return usageError{"verify takes one clone"}
				}
				if len(args) == 1 {
					dir = args[0]
				}
				return verify(ctx, p, dir, *signers, *asJSON)
			}
		},
	}
}

// verified is what verify found, as --json prints it.
type verified struct {
	Verified     bool     `json:"verified"`
	Tips         int      `json:"tips"`
	Verdicts     int      `json:"verdicts"`
	Mirrored     int      `json:"mirrored,omitempty"` // tips among them that came from a forge past the gate, which says nothing of their builds
	Releases     int      `json:"releases"`
	Environments int      `json:"environments"`
	Promotions   int      `json:"promotions"`
	Rollbacks    int      `json:"rollbacks"`
	Approvals    int      `json:"approvals"`
	Signatures   int      `json:"signatures"`
	Findings     []string `json:"findings"`
}

func verify(ctx context.Context, p printer, dir, signersFile string, asJSON bool) error {
	r, err := repo.OpenClone(dir)
	if err != nil {
		return err
	}
	if signersFile == "" {
		out, _ := exec.CommandContext(ctx, "git", "-C", dir, "config", "--type=path", "gpg.ssh.allowedSignersFile").Output() // none is reported below
		if signersFile = strings.TrimSpace(string(out)); signersFile == "" {
			return usageError{"nothing says whose signatures count; give --signers (ssh <server> signers prints them)"}
		}
	}
	data, err := os.ReadFile(signersFile)
	if err != nil {
		return fmt.Errorf("read the allowed signers: %w", err)
	}
	signers, err := repo.ParseSigners(data)
	if err != nil {
		return err
	}
	if len(signers) == 0 {
		return fmt.Errorf("%s names no allowed signer", signersFile)
	}
	source, err := gate.Verify(ctx, r, signers)
	if err != nil {
		return err
	}
	list, err := release.Of(r).List()
	if err != nil {
		return err
	}
	var releases []record.Release
	for _, rel := range list {
		verify := func(rel release.Release) error { return rel.Verify(r, signers) }
		releases = append(releases, proof.ReleaseOf(rel, verify))
	}
	delivery, err := record.Verify(ctx, r, signers, releases)
	if err != nil {
		return err
	}
	found := verified{
		Tips:         source.Tips,
		Verdicts:     source.Verdicts,
		Mirrored:     source.Mirrored,
		Releases:     source.Releases,
		Signatures:   source.Signed,
		Environments: delivery.Environments,
		Promotions:   delivery.Promotions,
		Rollbacks:    delivery.Rollbacks,
		Approvals:    delivery.Approvals,
		Findings:     []string{},
	}
	for _, f := range source.Findings {
		found.Findings = append(found.Findings, f.String())
	}
	for _, f := range delivery.Findings {
		found.Findings = append(found.Findings, f.String())
	}
	keys, err := r.VerifyRotations(ctx, signers)
	if err != nil {
		return err
	}
	found.Findings = append(found.Findings, keys...)
	if found.Tips == 0 {
		found.Findings = append(found.Findings,
			"there is nothing to prove: no change log says that anything landed; clone with --mirror")
	}
	found.Verified = len(found.Findings) == 0
	return found.print(p, asJSON)
}

func (f verified) print(p printer, asJSON bool) error {
	if asJSON {
		if err := json.NewEncoder(p.out).Encode(f); err != nil {
			return err
		}
	} else {
		for _, finding := range f.Findings {
			fmt.Fprintln(p.out, finding)
		}
		result := "verified"
		if !f.Verified {
			result = "not proven"
		}
		fmt.Fprintf(p.out, "%s: %d tips with %d green verdicts, ", result, f.Tips-f.Mirrored, f.Verdicts)
		if f.Mirrored > 0 {
			fmt.Fprintf(p.out, "%d tips that a forge had past the gate, ", f.Mirrored)
		}
		fmt.Fprintf(p.out, "%d releases, %d promotions and %d rollbacks in %d environments, %d approvals, %d signatures\n",
			f.Releases, f.Promotions, f.Rollbacks, f.Environments, f.Approvals, f.Signatures)
	}
	if !f.Verified {
		return exitCode{1}
	}
	return nil
}
