package pool

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

// secured is a service of the test's own, on the scripted CLI, that speaks TLS
// and asks for tokens.
type secured struct {
	testing.TB
	programs string
	folder   string
	address  string
	token    string
	roots    *x509.CertPool
}

func newSecured(t testing.TB) *secured {
	t.Helper()
	s := &secured{TB: t, programs: os.Getenv("SESSION_POOL_PROGRAMS"), folder: t.TempDir(), token: rand.Text()}
	if s.programs == "" {
		t.Fatal("SESSION_POOL_PROGRAMS is the folder of the programs")
	}
	s.makeCertificate()
	digest := sha256.Sum256([]byte(s.token))
	s.write("tokens.toml", fmt.Appendf(nil, "[[token]]\nsha256 = \"%x\"\ntenant = \"acme\"\n", digest))
	s.write("token", []byte(s.token+"\n"))
	s.serve()
	return s
}

func (s *secured) path(name string) string { return filepath.Join(s.folder, name) }

func (s *secured) write(name string, content []byte) {
	s.Helper()
	if err := os.WriteFile(s.path(name), content, 0o600); err != nil {
		s.Fatal(err)
	}
}

// makeCertificate makes an authority and, from it, a certificate for the loopback address.
func (s *secured) makeCertificate() {
	s.Helper()
	authority := x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "an authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	leaf := authority
	leaf.SerialNumber = big.NewInt(2)
	leaf.Subject = pkix.Name{CommonName: "session-pool"}
	leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leaf.IsCA = false

	signer, key := s.makeKey(), s.makeKey()
	root := s.sign(&authority, &authority, signer, signer)
	s.write("ca.pem", root)
	s.write("cert.pem", s.sign(&leaf, &authority, key, signer))
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.Fatal(err)
	}
	s.write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	s.roots = x509.NewCertPool()
	s.roots.AppendCertsFromPEM(root)
}

func (s *secured) makeKey() *ecdsa.PrivateKey {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.Fatal(err)
	}
	return key
}

func (s *secured) sign(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) []byte {
	s.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		s.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// serve starts the service and waits until it listens.
func (s *secured) serve() {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	command := exec.CommandContext(ctx, filepath.Join(s.programs, "session-pool"), "serve")
	command.Env = append(os.Environ(),
		"SESSION_POOL__SERVER__LISTEN=127.0.0.1:0",
		"SESSION_POOL__STATE_DIR="+s.path("state"),
		"SESSION_POOL__CLI__PATH="+filepath.Join(s.programs, "fake-claude"),
		"SESSION_POOL__CLI__SANDBOX=process-tree",
		"SESSION_POOL__TLS__CERT="+s.path("cert.pem"),
		"SESSION_POOL__TLS__KEY="+s.path("key.pem"),
		"SESSION_POOL__AUTH__TOKENS_FILE="+s.path("tokens.toml"),
		"SESSION_POOL__LOG__FORMAT=json")
	log, err := command.StderrPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := command.Start(); err != nil {
		s.Fatal(err)
	}
	lines := bufio.NewScanner(log)
	for s.address == "" && lines.Scan() {
		var event struct{ Message, Address string }
		if json.Unmarshal(lines.Bytes(), &event) == nil && event.Message == "listening" {
			s.address = event.Address
		}
	}
	if s.address == "" {
		s.Fatal("the service does not listen")
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines.Scan() {
		}
	}()
	s.Cleanup(func() {
		defer cancel()
		if err := command.Process.Signal(os.Interrupt); err != nil {
			s.Error(err)
		}
		<-read
		if err := command.Wait(); err != nil {
			s.Errorf("the service: %v", err)
		}
	})
}

// call asks for the sessions with this in the call's metadata.
func (s *secured) call(authorization ...string) error {
	s.Helper()
	transport := credentials.NewTLS(&tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS13})
	connection, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(transport))
	if err != nil {
		s.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for _, value := range authorization {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", value)
	}
	stub := pb.NewSessionPoolServiceClient(connection)
	_, err = stub.ListSessions(ctx, &pb.ListSessionsRequest{})
	return err
}

func TestTokenOverTLS(t *testing.T) {
	s := newSecured(t)
	if err := s.call("Bearer " + s.token); err != nil {
		t.Errorf("with a token: %v", err)
	}
	for name, authorization := range map[string][]string{
		"without a token":    nil,
		"with another token": {"Bearer " + rand.Text()},
	} {
		err := s.call(authorization...)
		if found := failureOf(err); found.code != codes.Unauthenticated || found.reason != "UNAUTHENTICATED" {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), s.token) {
			t.Errorf("%s: the token is in %v", name, err)
		}
	}
}

func TestProgramsOverTLS(t *testing.T) {
	s := newSecured(t)
	program := filepath.Join(s.programs, "session-pool")
	query := []string{"query", "--address", "https://" + s.address, "--ca-cert", s.path("ca.pem")}
	for _, test := range []struct {
		name string
		ok   bool
		argv []string
	}{
		{"session-pool with a token", true, append([]string{program}, append(query, "--token-file", s.path("token"), "hello")...)},
		{"session-pool without a token", false, append([]string{program}, append(query, "hello")...)},
		{"session-pool with an authority and no TLS", false, []string{program, "stats", "--address", "http://" + s.address, "--ca-cert", s.path("ca.pem"), "--token-file", s.path("token")}},
		{"grpcurl with a token", true, []string{s.grpcurl(), "-cacert", s.path("ca.pem"), "-H", "authorization: Bearer " + s.token, s.address, "sessionpool.v1.SessionPoolService/ListSessions"}},
		{"grpcurl without a token", false, []string{s.grpcurl(), "-cacert", s.path("ca.pem"), s.address, "sessionpool.v1.SessionPoolService/ListSessions"}},
		{"grpcurl without the authority", false, []string{s.grpcurl(), "-H", "authorization: Bearer " + s.token, s.address, "list"}},
		{"grpcurl in plain text", false, []string{s.grpcurl(), "-plaintext", "-connect-timeout", "3", s.address, "list"}},
	} {
		output, err := exec.Command(test.argv[0], test.argv[1:]...).CombinedOutput()
		if (err == nil) != test.ok {
			t.Errorf("%s: %v: %s", test.name, err, output)
		}
	}
}

func (s *secured) grpcurl() string {
	if program := os.Getenv("GRPCURL"); program != "" {
		return program
	}
	return "grpcurl"
}
