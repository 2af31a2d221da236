// Package acme has the shapes of ACME that Traefik keeps, and no ACME.
package acme

import "errors"

// ErrAbsent is what everything that would ask a certificate authority answers.
var ErrAbsent = errors.New("this build of Traefik is for tests and has no ACME")

// Account is what a certificate authority would know of an account.
type Account struct {
	Status  string   `json:"status,omitempty"`
	Contact []string `json:"contact,omitempty"`
}

// ExtendedAccount is an account and its address.
type ExtendedAccount struct {
	Account

	Location string `json:"-"`
}
