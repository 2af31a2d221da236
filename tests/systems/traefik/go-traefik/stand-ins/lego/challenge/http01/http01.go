// Package http01 has the settings of the challenge by HTTP, which has no effect here.
package http01

import "time"

// PathPrefix is where challenges are answered (RFC 8555, 8.3).
const PathPrefix = "/.well-known/acme-challenge/"

// Challenge is never made.
type Challenge struct{}

// ChallengeOption is a setting of the challenge.
type ChallengeOption func(*Challenge) error

// SetDelay has no effect.
func SetDelay(time.Duration) ChallengeOption {
	return func(*Challenge) error { return nil }
}
