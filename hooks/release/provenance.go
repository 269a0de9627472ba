package release

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// The names that readers of provenance know it by.
const (
	payloadType   = "application/vnd.in-toto+json"
	statementType = "https://in-toto.io/Statement/v1"
	predicateType = "https://slsa.dev/provenance/v1"
	buildType     = "https://github.com/headgate-cd/headgate/buildspec/v1"
)

// Envelope is a DSSE envelope around an in-toto statement.
type Envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"` // base64
	Signatures  []Signature `json:"signatures"`
}

// Signature is a bare ed25519 signature of the envelope's encoded payload.
type Signature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"` // base64
}

// Statement is an in-toto Statement v1 with a SLSA v1 provenance predicate.
type Statement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Subject is something the statement is about, by digest.
type Subject struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

// Predicate is SLSA provenance v1, as far as this server knows it.
type Predicate struct {
	BuildDefinition struct {
		BuildType            string         `json:"buildType"`
		ExternalParameters   map[string]any `json:"externalParameters"`
		ResolvedDependencies []Subject      `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
		Metadata struct {
			InvocationID string    `json:"invocationId,omitempty"`
			StartedOn    time.Time `json:"startedOn"`
			FinishedOn   time.Time `json:"finishedOn"`
		} `json:"metadata"`
		Byproducts []Subject `json:"byproducts,omitempty"` // the bill of materials
	} `json:"runDetails"`
}

// subjects are the commit and the artifacts of a release.
func subjects(m Manifest) []Subject {
	list := []Subject{{Name: m.Repository, Digest: map[string]string{"gitCommit": m.Commit}}}
	for _, a := range m.Artifacts {
		algorithm, digest, _ := strings.Cut(a.Digest, ":")
		list = append(list, Subject{Name: a.Name, Digest: map[string]string{algorithm: digest}})
	}
	return list
}

// byproducts are what besides its artifacts a release names by digest.
func byproducts(m Manifest) []Subject {
	if m.SBOM == nil {
		return nil
	}
	algorithm, digest, _ := strings.Cut(m.SBOM.Digest, ":")
	return []Subject{{Name: m.SBOM.Name, Digest: map[string]string{algorithm: digest}}}
}

// provenance is the signed statement of how a release was built.
func provenance(signer *repo.Signer, m Manifest, v verdict.Verdict) (*Envelope, error) {
	s := Statement{Type: statementType, Subject: subjects(m), PredicateType: predicateType}
	d := &s.Predicate.BuildDefinition
	d.BuildType = buildType
	d.ExternalParameters = map[string]any{
		"repository": m.Repository, "branch": m.Branch, "buildspec": v.Buildspec, "image": v.Image,
		"network": v.Network, "key": v.Key,
	}
	// A build sees the commit that it builds. When another commit lands with the tree
	// of one that was built before, it is that one which is named here.
	built := cmp.Or(v.Candidate, m.Commit)
	d.ResolvedDependencies = []Subject{{URI: "git:" + m.Repository,
		Digest: map[string]string{"gitCommit": built, "gitTree": m.Tree}}}
	r := &s.Predicate.RunDetails
	r.Builder.ID = "ssh:" + ssh.FingerprintSHA256(signer.PublicKey())
	r.Metadata.InvocationID, r.Metadata.StartedOn, r.Metadata.FinishedOn = v.Log, v.Started, v.Finished
	r.Byproducts = byproducts(m)
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode provenance: %w", err)
	}
	sig, err := signer.SignRaw(encoded(payloadType, payload))
	if err != nil {
		return nil, err
	}
	return &Envelope{
		PayloadType: payloadType,
		Payload:     base64.StdEncoding.EncodeToString(payload),
		Signatures:  []Signature{{ssh.FingerprintSHA256(signer.PublicKey()), base64.StdEncoding.EncodeToString(sig)}},
	}, nil
}

// encoded is DSSE's pre-authentication encoding.
func encoded(kind string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload)
}

// Statement is what a release's provenance says, unproven: Verify proves it.
func (m Manifest) Statement() (Statement, error) {
	var s Statement
	if m.Provenance == nil {
		return s, errors.New("there is none")
	}
	payload, err := base64.StdEncoding.DecodeString(m.Provenance.Payload)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(payload, &s)
}

// open checks an envelope's signature and returns the statement in it.
func (e *Envelope) open(signers repo.Signers) (Statement, error) {
	var s Statement
	if e == nil {
		return s, errors.New("there is none")
	}
	if e.PayloadType != payloadType {
		return s, fmt.Errorf("its payload type is %q", e.PayloadType)
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		return s, err
	}
	signed := errors.New("it carries no signature")
	for _, sig := range e.Signatures {
		raw, err := base64.StdEncoding.DecodeString(sig.Sig)
		if err != nil {
			return s, err
		}
		if signed = signers.VerifyRaw(encoded(e.PayloadType, payload), raw); signed == nil {
			break
		}
	}
	if signed != nil {
		return s, fmt.Errorf("it %w", signed)
	}
	if err := json.Unmarshal(payload, &s); err != nil {
		return s, err
	}
	if s.Type != statementType || s.PredicateType != predicateType {
		return s, fmt.Errorf("it is a %q with a %q", s.Type, s.PredicateType)
	}
	return s, nil
}

// about checks that a statement is about exactly this release.
func (s Statement) about(m Manifest) error {
	name := func(list []Subject) []string {
		var names []string
		for _, x := range list {
			for algorithm, digest := range x.Digest {
				names = append(names, x.Name+" "+algorithm+":"+digest)
			}
		}
		slices.Sort(names)
		return names
	}
	if got, want := name(s.Subject), name(subjects(m)); !slices.Equal(got, want) {
		return fmt.Errorf("it is about %s, and the release holds %s", strings.Join(got, ", "), strings.Join(want, ", "))
	}
	got, want := name(s.Predicate.RunDetails.Byproducts), name(byproducts(m))
	if !slices.Equal(got, want) {
		return fmt.Errorf("it names the bill of materials %s, and the release %s", strings.Join(got, ", "), strings.Join(want, ", "))
	}
	for _, dep := range s.Predicate.BuildDefinition.ResolvedDependencies {
		if dep.URI == "git:"+m.Repository && dep.Digest["gitTree"] == m.Tree {
			return nil
		}
	}
	return fmt.Errorf("it was not built from tree %s", m.Tree)
}
