package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// readPublicKeys reads the keys of authorized_keys-like files, one a line.
func readPublicKeys(paths []string) ([]string, error) {
	var keys []string
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read public key: %w", err)
		}
		found := parsePublicKeys(data)
		if len(found) == 0 {
			return nil, fmt.Errorf("%s holds no SSH public key; give the .pub file", path)
		}
		keys = append(keys, found...)
	}
	return keys, nil
}

// parsePublicKeys takes the lines that are SSH public keys, as "type base64 comment".
func parsePublicKeys(data []byte) []string {
	var keys []string
	for line := range bytes.Lines(data) {
		key, comment, _, _, err := ssh.ParseAuthorizedKey(line)
		if err != nil {
			continue
		}
		text := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
		if comment != "" {
			text += " " + comment
		}
		keys = append(keys, text)
	}
	return keys
}

// ownKeys finds the SSH public keys of whoever runs this program: those of the
// agent, and those in ~/.ssh beside which their private half is. A key without it
// may be anybody's, and the first ones make an administrator.
func ownKeys(ctx context.Context) []string {
	var data []byte
	if os.Getenv("SSH_AUTH_SOCK") != "" {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		out, _ := exec.CommandContext(ctx, "ssh-add", "-L").Output() // no agent, no keys
		data = append(data, out...)
	}
	home, _ := os.UserHomeDir()
	files, _ := filepath.Glob(filepath.Join(home, ".ssh", "*.pub"))
	for _, f := range files {
		if _, err := os.Stat(strings.TrimSuffix(f, ".pub")); err != nil {
			continue
		}
		if content, err := os.ReadFile(f); err == nil {
			data = append(append(data, content...), '\n')
		}
	}
	var keys []string
	seen := map[string]bool{}
	for _, key := range parsePublicKeys(data) {
		f := strings.Fields(key)
		if strings.Contains(f[0], "-cert-") || strings.HasPrefix(f[0], "ssh-dss") || seen[f[1]] {
			continue
		}
		seen[f[1]] = true
		keys = append(keys, key)
	}
	return keys
}

// madeKey makes an SSH key pair at path, unless it is there, and returns the
// public half.
func madeKey(path, comment string) (string, error) {
	key, err := repo.OpenKey(path)
	if err != nil {
		return "", err
	}
	public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey()))) + " " + comment
	return public, repo.WriteFile(path+".pub", []byte(public+"\n"), 0o644)
}

// ownName is the login name of whoever runs this program, as a user name of
// the server.
func ownName() string {
	name := "admin"
	if u, err := user.Current(); err == nil && u.Username != "root" {
		name = u.Username
	}
	name = regexp.MustCompile(`[^a-z0-9-]+`).ReplaceAllString(strings.ToLower(name), "-")
	name = strings.Trim(name, "-")
	if name == "" || name[0] < 'a' || name[0] > 'z' {
		name = "admin"
	}
	return name[:min(len(name), 32)]
}
