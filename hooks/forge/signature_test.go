package forge

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/secret"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_790_000_000, 0)
	body := []byte(`{"ref": "refs/heads/main"}`)
	hexOf := func(secret string, b []byte) string { return hex.EncodeToString(sum([]byte(secret), b)) }
	key := strings.Repeat("k", 32)
	whsec := "whsec_" + base64.StdEncoding.EncodeToString([]byte(key))
	standard := func(at time.Time, id string, b []byte) http.Header {
		stamp := strconv.FormatInt(at.Unix(), 10)
		mac := sum([]byte(key), []byte(id+"."+stamp+"."+string(b)))
		return http.Header{
			"Webhook-Id":        {id},
			"Webhook-Timestamp": {stamp},
			"Webhook-Signature": {"v1,AAAA v1," + base64.StdEncoding.EncodeToString(mac)},
		}
	}
	with := func(h http.Header, name, value string) http.Header {
		h = h.Clone()
		h.Add(name, value)
		return h
	}

	for _, tt := range []struct {
		name    string
		kind    Kind
		secrets []string
		header  http.Header
		want    int // index of the secret; -1: refused
	}{
		{"github", GitHub, []string{"one"}, http.Header{"X-Hub-Signature-256": {"sha256=" + hexOf("one", body)}}, 0},
		{"github, second secret", GitHub, []string{"new", "one"},
			http.Header{"X-Hub-Signature-256": {"sha256=" + hexOf("one", body)}}, 1},
		{"github, other body", GitHub, []string{"one"},
			http.Header{"X-Hub-Signature-256": {"sha256=" + hexOf("one", []byte(`{"ref":"refs/heads/main"}`))}}, -1},
		{"github, no prefix", GitHub, []string{"one"}, http.Header{"X-Hub-Signature-256": {hexOf("one", body)}}, -1},
		{"github, cut short", GitHub, []string{"one"},
			http.Header{"X-Hub-Signature-256": {"sha256=" + hexOf("one", body)[:62]}}, -1},
		{"github, SHA-1 only", GitHub, []string{"one"},
			http.Header{"X-Hub-Signature": {"sha1=f1c4a8e7c2f5f2d9b6ad1c7a6d1b7d4d4b8e9a01"}}, -1},
		{"github, twice", GitHub, []string{"one"},
			http.Header{"X-Hub-Signature-256": {"sha256=" + hexOf("one", body), "sha256=" + hexOf("two", body)}}, -1},
		{"github, unsigned", GitHub, []string{"one"}, http.Header{}, -1},
		{"github, empty secret", GitHub, []string{""}, http.Header{"X-Hub-Signature-256": {"sha256=" + hexOf("", body)}}, -1},
		{"github, no secret", GitHub, nil, http.Header{"X-Hub-Signature-256": {"sha256=" + hexOf("", body)}}, -1},
		{"gitea", Gitea, []string{"one"}, http.Header{"X-Gitea-Signature": {hexOf("one", body)}}, 0},
		{"forgejo", Gitea, []string{"one"}, http.Header{"X-Forgejo-Signature": {hexOf("one", body)}}, 0},
		{"gitea, GitHub's header only", Gitea, []string{"one"},
			http.Header{"X-Hub-Signature-256": {"sha256=" + hexOf("one", body)}}, -1},
		{"gitlab, plain", GitLab, []string{"one"}, http.Header{"X-Gitlab-Token": {"one"}}, 0},
		{"gitlab, plain, wrong", GitLab, []string{"one"}, http.Header{"X-Gitlab-Token": {"onf"}}, -1},
		{"gitlab, plain, empty", GitLab, []string{""}, http.Header{"X-Gitlab-Token": {""}}, -1},
		{"gitlab, signed", GitLab, []string{"old", whsec}, standard(now, "msg_1", body), 1},
		{"gitlab, signed, other id", GitLab, []string{whsec}, with(with(http.Header{}, "Webhook-Id", "msg_2"), "X", ""), -1},
		{"gitlab, signed five minutes ago", GitLab, []string{whsec}, standard(now.Add(-5*time.Minute), "m", body), 0},
		{"gitlab, signed earlier", GitLab, []string{whsec}, standard(now.Add(-301*time.Second), "m", body), -1},
		{"gitlab, signed later", GitLab, []string{whsec}, standard(now.Add(301*time.Second), "m", body), -1},
		{"gitlab, signed wrongly with a good token", GitLab, []string{whsec},
			with(standard(now, "m", []byte("other")), "X-Gitlab-Token", whsec), -1},
		{"gitlab, secret of another form", GitLab, []string{key}, standard(now, "m", body), -1},
		{"no kind", "", []string{"one"}, http.Header{"X-Hub-Signature-256": {"sha256=" + hexOf("one", body)}}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var secrets []secret.Value
			for _, s := range tt.secrets {
				secrets = append(secrets, secret.NewValue([]byte(s)))
			}
			got, err := Verify(tt.kind, secrets, tt.header, body, now)
			switch {
			case tt.want < 0 && err == nil:
				t.Fatalf("Verify accepted it with secret %d", got)
			case tt.want >= 0 && (err != nil || got != tt.want):
				t.Fatalf("Verify = %d, %v; want %d", got, err, tt.want)
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("sha256=00", "v1,AA== v1,", "1790000000", []byte("{}"))
	f.Fuzz(func(t *testing.T, signature, standard, stamp string, body []byte) {
		h := http.Header{
			"X-Hub-Signature-256": {signature},
			"X-Gitea-Signature":   {signature},
			"Webhook-Signature":   {standard},
			"Webhook-Timestamp":   {stamp},
			"Webhook-Id":          {"id"},
		}
		secrets := []secret.Value{secret.NewValue([]byte("whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 32))))}
		for _, k := range []Kind{GitHub, GitLab, Gitea} {
			if _, err := Verify(k, secrets, h, body, time.Unix(1_790_000_000, 0)); err == nil {
				t.Errorf("%s: guessed a signature", k)
			}
		}
	})
}

// BenchmarkWrongSignatures: whether all of a signature is wrong or its last byte alone shows in no
// time (trial W6). Measured in turns; the ratio of medians is 1 but for noise.
func BenchmarkWrongSignatures(b *testing.B) {
	const turns = 10_000
	now := time.Unix(1_790_000_000, 0)
	body := []byte(`{"ref": "refs/heads/main"}`)
	key := strings.Repeat("k", 32)
	right := sum([]byte(key), body)
	token := []byte(key)

	wrong := func(of []byte, from int) []byte {
		w := slices.Clone(of)
		for i := from; i < len(w); i++ {
			w[i] ^= 1
		}
		return w
	}
	for _, tt := range []struct {
		kind   Kind
		right  []byte
		header func([]byte) http.Header
	}{
		{GitHub, right, func(s []byte) http.Header {
			return http.Header{"X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(s)}}
		}},
		{Gitea, right, func(s []byte) http.Header {
			return http.Header{"X-Gitea-Signature": {hex.EncodeToString(s)}}
		}},
		{GitLab, token, func(s []byte) http.Header { return http.Header{"X-Gitlab-Token": {string(s)}} }},
	} {
		b.Run(string(tt.kind), func(b *testing.B) {
			secrets := []secret.Value{secret.NewValue([]byte(key))}
			headers := []http.Header{tt.header(wrong(tt.right, 0)), tt.header(wrong(tt.right, len(tt.right)-1))}
			var took [2][]time.Duration
			for range b.N {
				for i := range 2 * turns {
					began := time.Now()
					_, err := Verify(tt.kind, secrets, headers[i%2], body, now)
					took[i%2] = append(took[i%2], time.Since(began))
					if err == nil {
						b.Fatal("a wrong signature is believed")
					}
				}
			}
			for i := range took {
				slices.Sort(took[i])
			}
			median := func(i int) float64 { return float64(took[i][len(took[i])/2]) }
			b.ReportMetric(median(0), "ns-all-wrong")
			b.ReportMetric(median(1), "ns-one-wrong")
			b.ReportMetric(median(1)/median(0), "x-one-to-all")
		})
	}
}
