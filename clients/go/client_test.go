package sessionpool

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

func TestTheServiceConfigIsTheDeployedOne(t *testing.T) {
	deployed, err := os.ReadFile("../../deploy/service_config.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(deployed, []byte(ServiceConfig)) {
		t.Error("service_config.json is not that of deploy/: copy it")
	}
}

func TestTheServiceConfigIsInForce(t *testing.T) {
	f := newFake(t)
	calls := 0
	f.stats = func(ctx context.Context) (*pb.GetStatsResponse, error) {
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 16*time.Second {
			t.Errorf("the deadline is %v", deadline)
		}
		if calls++; calls < 3 {
			return nil, status.Error(codes.Unavailable, "try again")
		}
		return &pb.GetStatsResponse{MaxSessions: 7}, nil
	}
	stats, err := f.client().GetStats(f.context(), &pb.GetStatsRequest{})
	if err != nil || stats.GetMaxSessions() != 7 || calls != 3 {
		t.Errorf("%v, %v after %d calls", stats, err, calls)
	}
}

func TestErrorsOfUnaryCallsAreTyped(t *testing.T) {
	f := newFake(t)
	client := f.client()
	_, err := client.GetSession(f.context(), &pb.GetSessionRequest{SessionId: "nobody"})
	found := failed(t, err, codes.NotFound, "SESSION_NOT_FOUND", NoRetry)
	if found.Metadata["session_id"] != "nobody" {
		t.Errorf("metadata %v", found.Metadata)
	}
	if !errors.Is(err, Reason(pb.ErrorReason_ERROR_REASON_SESSION_NOT_FOUND)) ||
		errors.Is(err, Reason(pb.ErrorReason_ERROR_REASON_TURN_NOT_FOUND)) ||
		ReasonOf(err) != pb.ErrorReason_ERROR_REASON_SESSION_NOT_FOUND {
		t.Errorf("reason %v", ReasonOf(err))
	}
	stream, err := client.ServeTools(f.context())
	if err == nil {
		_, err = stream.Recv()
	}
	failed(t, err, codes.Unimplemented, "", NoRetry)
}

func TestTheReasonOfSomebodyElseIsNoReason(t *testing.T) {
	state, err := status.New(codes.Unavailable, "words").WithDetails(
		&errdetails.ErrorInfo{Domain: "example.com", Reason: "SESSION_BUSY"})
	if err != nil {
		t.Fatal(err)
	}
	failed(t, failure(context.Background(), state.Err()), codes.Unavailable, "", RetrySameTurn)
}

// A reason that the contract gets has to have its advice, which for most is none.
func TestEveryReasonHasItsAdvice(t *testing.T) {
	want := map[Advice]string{
		SafeToRetry: "POOL_AT_CAPACITY QUEUE_FULL MEMORY_BUDGET_EXCEEDED TENANT_QUOTA_EXCEEDED SESSION_BUSY " +
			"CONNECT_FAILED STORE_UNAVAILABLE SHUTTING_DOWN",
		RetrySameTurn: "SESSION_MOVED",
		AttachAgain:   "LISTENER_TOO_SLOW EVENTS_EXPIRED",
		NoRetry: "UNSPECIFIED INVALID_ARGUMENT POOL_DISABLED OPTIONS_MISMATCH POLICY_DENIED UNAUTHENTICATED " +
			"SESSION_NOT_FOUND TURN_NOT_FOUND PROMPT_NOT_FOUND TASK_NOT_FOUND BACKGROUND_TIMEOUT CLI_NOT_FOUND " +
			"FIRST_CHUNK_TIMEOUT STREAM_STALLED TURN_INTERRUPTED CLI_EXITED FRAME_TOO_LARGE PROTOCOL_ERROR INTERNAL " +
			"UNIMPLEMENTED MEMORY_LIMIT TASK_LIMIT_EXCEEDED WORKSPACE_LIMIT_EXCEEDED DEADLINE_EXCEEDED SESSION_CONFLICT BUDGET_EXHAUSTED " +
			"CREDENTIALS_REFUSED",
	}
	for _, name := range pb.ErrorReason_name {
		reason := strings.TrimPrefix(name, reasonPrefix)
		got := advice(&Error{Reason: reason}, false)
		if !slices.Contains(strings.Fields(want[got]), reason) {
			t.Errorf("%s has the advice %v", reason, got)
		}
	}
}

func TestTheSessionGoesAlongOnce(t *testing.T) {
	f := newFake(t)
	f.query = func(_ *pb.QueryRequest, stream queryStream) error { return answer(stream, started("t")) }
	f.attach = func(_ *pb.AttachRequest, stream attachStream) error { return goOn(stream, started("t")) }
	f.stats = func(context.Context) (*pb.GetStatsResponse, error) { return &pb.GetStatsResponse{}, nil }
	client, ctx := f.client(), f.context()
	read(client.Query(ctx, &pb.QueryRequest{SessionId: "one", Prompt: "hello"}))
	read(client.Query(ctx, &pb.QueryRequest{Prompt: "hello"}))
	read(client.Attach(ctx, &pb.AttachRequest{SessionId: "two"}))
	client.GetSession(ctx, &pb.GetSessionRequest{SessionId: "three"})
	client.GetStats(ctx, &pb.GetStatsRequest{})
	for range client.WatchSession(ctx, &pb.WatchSessionRequest{SessionId: "four"}) {
	}
	named := metadata.AppendToOutgoingContext(ctx, "session-id", "five")
	read(client.Query(named, &pb.QueryRequest{SessionId: "five", Prompt: "hello"}))
	want := [][]string{{"one"}, nil, {"two"}, {"three"}, nil, {"four"}, {"five"}}
	if got := f.seen(); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%v in place of %v", got, want)
	}
}

func TestHealth(t *testing.T) {
	f := newFake(t)
	client := f.client()
	f.health.SetServingStatus("sessionpool.v1.SessionPoolService", healthpb.HealthCheckResponse_SERVING)
	if err := client.Healthy(f.context()); err != nil {
		t.Error(err)
	}
	f.health.SetServingStatus("sessionpool.v1.SessionPoolService", healthpb.HealthCheckResponse_NOT_SERVING)
	failed(t, client.Healthy(f.context()), codes.Unavailable, "", RetrySameTurn)
	_, err := client.Health(f.context(), "nobody")
	failed(t, err, codes.NotFound, "", NoRetry)
}

func TestATokenIsNotSentInPlainTextElsewhere(t *testing.T) {
	for target, ok := range map[string]bool{
		"127.0.0.1:50051": true, "localhost:50051": true, "[::1]:50051": true, "dns:///localhost:1": true,
		"unix:/tmp/s": true, "192.0.2.1:50051": false, "example.com:50051": false, "localhost.example.com:1": false,
		"dns:///example.com:1": false, "127.0.0.1.example.com:1": false,
	} {
		client, err := New(target, WithToken("secret"))
		if (err == nil) != ok {
			t.Errorf("%s: %v", target, err)
		}
		if client != nil {
			client.Close()
		}
	}
}

// authority signs certificates for the loopback address and for callers.
type authority struct {
	testing.TB
	folder      string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{TB: t, folder: t.TempDir()}
	a.certificate, a.key = a.make("ca", nil)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.folder, name+".pem") }

// make writes a certificate and its key to files of this name.
func (a *authority) make(name string, parent *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, IsCA: parent == nil,
	}
	signer, signerKey := template, key
	if parent != nil {
		signer, signerKey = parent.certificate, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, &key.PublicKey, signerKey)
	if err != nil {
		a.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		a.path(name):          {Type: "CERTIFICATE", Bytes: der},
		a.path(name + "-key"): {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			a.Fatal(err)
		}
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		a.Fatal(err)
	}
	return certificate, key
}

// secure is a fake with TLS, which tells the name of a caller's certificate and its token.
func (a *authority) secure(ask tls.ClientAuthType) (*fake, func() string) {
	a.make("server", a)
	pair, err := tls.LoadX509KeyPair(a.path("server"), a.path("server-key"))
	if err != nil {
		a.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.certificate)
	config := &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: ask, ClientCAs: roots}
	token := ""
	f := newFake(a, grpc.Creds(credentials.NewTLS(config)))
	f.stats = func(ctx context.Context) (*pb.GetStatsResponse, error) {
		sent, _ := metadata.FromIncomingContext(ctx)
		token = strings.Join(sent.Get("authorization"), ",")
		return &pb.GetStatsResponse{}, nil
	}
	return f, func() string { return token }
}

func TestTokenOverTLS(t *testing.T) {
	a := newAuthority(t)
	f, token := a.secure(tls.NoClientCert)
	if _, err := f.client(WithCA(a.path("ca")), WithToken("secret")).GetStats(f.context(), &pb.GetStatsRequest{}); err != nil {
		t.Fatal(err)
	}
	if token() != "Bearer secret" {
		t.Errorf("sent %q", token())
	}
	// Another authority than the machine's own.
	ctx, cancel := context.WithTimeout(f.context(), time.Second)
	defer cancel()
	if _, err := f.client(WithTLS(nil)).GetStats(ctx, &pb.GetStatsRequest{}); err == nil {
		t.Error("the server's certificate is taken without its authority")
	}
}

func TestMutualTLS(t *testing.T) {
	a := newAuthority(t)
	f, _ := a.secure(tls.RequireAndVerifyClientCert)
	a.make("caller", a)
	client := f.client(WithCA(a.path("ca")), WithClientCertificate(a.path("caller"), a.path("caller-key")))
	if _, err := client.GetStats(f.context(), &pb.GetStatsRequest{}); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(f.context(), time.Second)
	defer cancel()
	if _, err := f.client(WithCA(a.path("ca"))).GetStats(ctx, &pb.GetStatsRequest{}); err == nil {
		t.Error("nobody asked for a certificate")
	}
	for _, option := range []Option{
		WithCA(a.path("nowhere")), WithCA(a.path("caller-key")), WithClientCertificate(a.path("caller"), a.path("ca")),
		WithAttempts(0), WithConnectTimeout(0),
	} {
		if _, err := New(f.address, option); err == nil {
			t.Error("a wrong option is taken")
		}
	}
}
