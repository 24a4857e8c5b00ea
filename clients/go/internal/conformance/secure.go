package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sessionpool "github.com/session-pool/session-pool/clients/go"
	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

func authority() sessionpool.Option { return sessionpool.WithCA(variable("CONFORMANCE_CA")) }

func tlsToken(s *step) {
	token := sessionpool.WithToken(variable("CONFORMANCE_TOKEN"))
	s.echoed(s.client("CONFORMANCE_TLS", authority(), token), query(s.session(), "hello"))
}

func tlsWrongToken(s *step) {
	const wrong = "another-token"
	client := s.client("CONFORMANCE_TLS", authority(), sessionpool.WithToken(wrong))
	_, err := client.ListSessions(s, &pb.ListSessionsRequest{})
	failed := s.failed(err)
	s.check(failed.Code == codes.Unauthenticated && failed.Reason == "UNAUTHENTICATED" &&
		failed.Advice == sessionpool.NoRetry, "%+v", failed)
	told := fmt.Sprintf("%v %+v", err, *failed)
	s.check(!strings.Contains(told, wrong) && !strings.Contains(told, variable("CONFORMANCE_TOKEN")), "a token is told")
}

func mutualTLS(s *step) {
	certificate := sessionpool.WithClientCertificate(
		variable("CONFORMANCE_CLIENT_CERT"), variable("CONFORMANCE_CLIENT_KEY"))
	s.echoed(s.client("CONFORMANCE_MUTUAL_TLS", authority(), certificate), query(s.session(), "hello"))
}

func mutualTLSNoCertificate(s *step) {
	ctx, cancel := context.WithTimeout(s, 3*time.Second)
	defer cancel()
	_, err := s.client("CONFORMANCE_MUTUAL_TLS", authority()).ListSessions(ctx, &pb.ListSessionsRequest{})
	s.check(status.Code(err) != codes.OK, "a certificate is not asked for")
}
