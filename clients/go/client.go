// Package sessionpool is a client of session-pool, the gRPC service that runs turns on Claude CLI processes.
//
//	client, err := sessionpool.New("127.0.0.1:50051")
//	…
//	for event, err := range client.Query(ctx, &pb.QueryRequest{SessionId: "demo", Prompt: "Hello."}).Events() {
//
// It is thin: requests, answers and events are the messages of the contract. What it adds: a turn is one
// stream of whole events, also when an event comes in parts or the connection is lost (Turn); errors have
// their reason and say whether to ask again (Error); the session's id goes along as metadata, by which
// proxies choose a node; deploy/service_config.json is in force.
package sessionpool

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

// Version is the version of this package.
const Version = "0.1.0"

// ServiceConfig is the service config that calls have unless a resolver brings another: which calls are
// tried again by gRPC itself, and the deadline of those that have none.
//
//go:embed service_config.json
var ServiceConfig string

const (
	// sessionKey is the metadata by which proxies choose a node.
	sessionKey = "session-id"

	defaultConnectTimeout = 30 * time.Second
	defaultAttempts       = 10
	// A connection that has gone without a word is noticed after the two together, while calls run.
	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 10 * time.Second
)

// Client calls one service. It is safe for concurrent use, and its connection is shared by all calls.
//
// The calls that it does not have itself are those of the generated stub; their errors are *Error too.
type Client struct {
	pb.SessionPoolServiceClient
	connection     *grpc.ClientConn
	health         healthpb.HealthClient
	connectTimeout time.Duration
	attempts       int
}

// New makes a client of the service at target, a host and port or any other target of gRPC. It does not
// connect: the first call does. Without an option that turns TLS on it speaks plain text.
func New(target string, options ...Option) (*Client, error) {
	set := settings{connectTimeout: defaultConnectTimeout, attempts: defaultAttempts}
	for _, option := range options {
		if err := option(&set); err != nil {
			return nil, fmt.Errorf("session-pool: %w", err)
		}
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(set.transport()),
		grpc.WithDefaultServiceConfig(ServiceConfig),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 2, Jitter: jitter, MaxDelay: lastBackoff},
			MinConnectTimeout: defaultConnectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithUserAgent("session-pool-go/" + Version),
		grpc.WithChainUnaryInterceptor(unary),
		grpc.WithChainStreamInterceptor(streaming),
	}
	if set.token != nil {
		if set.tls == nil && !isLoopback(target) {
			return nil, errors.New("session-pool: a token without TLS is only sent to this machine")
		}
		dial = append(dial, grpc.WithPerRPCCredentials(bearer{set.token, set.tls == nil}))
	}
	connection, err := grpc.NewClient(target, append(dial, set.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("session-pool: %w", err)
	}
	return &Client{
		SessionPoolServiceClient: pb.NewSessionPoolServiceClient(connection),
		connection:               connection,
		health:                   healthpb.NewHealthClient(connection),
		connectTimeout:           set.connectTimeout,
		attempts:                 set.attempts,
	}, nil
}

// Close ends the connection and all calls on it.
func (c *Client) Close() error { return c.connection.Close() }

// Healthy returns nil if the service takes turns, and an *Error with code UNAVAILABLE, or that of the call,
// if it does not.
func (c *Client) Healthy(ctx context.Context) error {
	state, err := c.Health(ctx, pb.SessionPoolService_ServiceDesc.ServiceName)
	if err != nil {
		return err
	}
	if state != healthpb.HealthCheckResponse_SERVING {
		return unavailable(fmt.Sprintf("the service is %s", state))
	}
	return nil
}

// Health asks for the health of a service by name: "", that of the contract, or `liveness`. It needs no
// credentials.
func (c *Client) Health(ctx context.Context, service string) (healthpb.HealthCheckResponse_ServingStatus, error) {
	answer, err := c.health.Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	return answer.GetStatus(), err
}

// ready waits for a connection, for as long as it may, and reports whether there is one. A call that does not
// wait itself then says why there is none.
func (c *Client) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, c.connectTimeout)
	defer cancel()
	for {
		state := c.connection.GetState()
		if state == connectivity.Ready {
			return true
		}
		if state == connectivity.Idle {
			c.connection.Connect()
		}
		if !c.connection.WaitForStateChange(ctx, state) {
			return false
		}
	}
}

// withSession puts the session's id into the metadata of a call, unless it is there.
func withSession(ctx context.Context, sessionID string) context.Context {
	sent, _ := metadata.FromOutgoingContext(ctx)
	if sessionID == "" || len(sent.Get(sessionKey)) > 0 {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, sessionKey, sessionID)
}

func unary(
	ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker,
	options ...grpc.CallOption,
) error {
	if named, ok := request.(interface{ GetSessionId() string }); ok {
		ctx = withSession(ctx, named.GetSessionId())
	}
	if err := invoke(ctx, method, request, reply, connection, options...); err != nil {
		return failure(ctx, err)
	}
	return nil
}

// streaming does for streams what unary does but for the session's id, since metadata goes before messages.
func streaming(
	ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string,
	open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := open(ctx, description, connection, method, options...)
	if err != nil {
		return nil, failure(ctx, err)
	}
	return failing{stream, ctx}, nil
}
