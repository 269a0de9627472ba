package repo

import (
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestBareSignature(t *testing.T) {
	store, _ := testStore(t)
	other, _ := testStore(t)
	sig, err := store.Signer().SignRaw([]byte("DSSEv1 hello"))
	if err != nil || len(sig) != 64 {
		t.Fatalf("%d bytes, %v", len(sig), err)
	}
	mine, theirs := ssh.PublicKey(store.Signer().PublicKey()), ssh.PublicKey(other.Signer().PublicKey())
	if err := (Signers{theirs, mine}).VerifyRaw([]byte("DSSEv1 hello"), sig); err != nil {
		t.Fatal(err)
	}
	if (Signers{mine}).VerifyRaw([]byte("DSSEv1 hallo"), sig) == nil {
		t.Fatal("another message verifies")
	}
	if (Signers{theirs}).VerifyRaw([]byte("DSSEv1 hello"), sig) == nil {
		t.Fatal("another key verifies")
	}
}
