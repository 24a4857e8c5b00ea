package sessionpool

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Option changes how a Client calls.
type Option func(*settings) error

type settings struct {
	tls            *tls.Config
	token          func(context.Context) (string, error)
	connectTimeout time.Duration
	attempts       int
	dial           []grpc.DialOption
}

// secure returns the TLS configuration that further options fill in.
func (s *settings) secure() *tls.Config {
	if s.tls == nil {
		s.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return s.tls
}

// WithTLS turns TLS on, with the machine's authorities. A nil configuration is the default one; another
// one is copied, and further options are put on top of it.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) error {
		if config != nil {
			s.tls = config.Clone()
		}
		s.secure()
		return nil
	}
}

// WithCA turns TLS on and trusts the authorities of this PEM file alone.
func WithCA(file string) Option {
	return func(s *settings) error {
		pem, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("no certificate in %s", file)
		}
		s.secure().RootCAs = roots
		return nil
	}
}

// WithClientCertificate turns mutual TLS on, with a certificate and its key in PEM files. They are read
// again for every connection, so that they may be replaced.
func WithClientCertificate(certFile, keyFile string) Option {
	return func(s *settings) error {
		if _, err := tls.LoadX509KeyPair(certFile, keyFile); err != nil {
			return err
		}
		s.secure().GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(certFile, keyFile)
			return &pair, err
		}
		return nil
	}
}

// WithServerName sets the name that the server's certificate must have, where it is not the target's.
func WithServerName(name string) Option {
	return func(s *settings) error {
		s.secure().ServerName = name
		return nil
	}
}

// WithToken sends a bearer token with every call. It needs TLS, or a target on this machine.
func WithToken(token string) Option {
	return WithTokenSource(func(context.Context) (string, error) { return token, nil })
}

// WithTokenSource asks for the bearer token at every call, so that it may be replaced.
func WithTokenSource(source func(context.Context) (string, error)) Option {
	return func(s *settings) error {
		s.token = source
		return nil
	}
}

// WithConnectTimeout bounds how long a stream waits for a connection, at its start and each time that it
// was lost. Default: 30 s. Other calls wait for as long as their deadline allows.
func WithConnectTimeout(limit time.Duration) Option {
	return func(s *settings) error {
		if limit <= 0 {
			return errors.New("the connect timeout is not over 0")
		}
		s.connectTimeout = limit
		return nil
	}
}

// WithAttempts sets how often a stream is asked for, one try after the other, without an event in between:
// 1 does neither retry nor resume. Default: 10.
func WithAttempts(attempts int) Option {
	return func(s *settings) error {
		if attempts < 1 {
			return errors.New("fewer than one attempt")
		}
		s.attempts = attempts
		return nil
	}
}

// WithDialOptions adds options of gRPC's own, over those of the client.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) error {
		s.dial = append(s.dial, options...)
		return nil
	}
}

func (s *settings) transport() credentials.TransportCredentials {
	if s.tls == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(s.tls)
}

// bearer sends a token with every call.
type bearer struct {
	source    func(context.Context) (string, error)
	plaintext bool
}

func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := b.source(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return !b.plaintext }

// isLoopback reports whether a target is on this machine.
func isLoopback(target string) bool {
	if strings.HasPrefix(target, "unix:") {
		return true
	}
	for _, scheme := range []string{"dns:///", "passthrough:///", "ipv4:", "ipv6:"} {
		target = strings.TrimPrefix(target, scheme)
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		host = target
	}
	address := net.ParseIP(host)
	return host == "localhost" || address != nil && address.IsLoopback()
}
