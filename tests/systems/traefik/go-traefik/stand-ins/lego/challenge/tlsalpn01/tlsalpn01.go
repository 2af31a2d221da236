// Package tlsalpn01 has the settings of the challenge by TLS, which has no effect here.
package tlsalpn01

import (
	"time"

	"github.com/go-acme/lego/v5/acme"
)

// ACMETLS1Protocol is the protocol that names the challenge (RFC 8737, 3).
const ACMETLS1Protocol = "acme-tls/1"

// Challenge is never made.
type Challenge struct{}

// ChallengeOption is a setting of the challenge.
type ChallengeOption func(*Challenge) error

// SetDelay has no effect.
func SetDelay(time.Duration) ChallengeOption {
	return func(*Challenge) error { return nil }
}

// ChallengeBlocks makes no certificate.
func ChallengeBlocks(string, string) ([]byte, []byte, error) {
	return nil, nil, acme.ErrAbsent
}
