package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	sessionpool "github.com/session-pool/session-pool/clients/go"
	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

var steps = []*step{
	{name: "stream", run: stream},
	{name: "text", run: text},
	{name: "numbers", run: numbers},
	{name: "parts", run: parts},
	{name: "cancel", run: cancel},
	{name: "dropped", run: dropped},
	{name: "deadline", run: deadline},
	{name: "interrupt", run: interrupt},
	{name: "error-info", run: errorInfo},
	{name: "bad-request", run: badRequest},
	{name: "retry-info", run: retryInfo},
	{name: "attach", run: attach, proxied: true},
	{name: "attach-parts", run: attachParts, proxied: true},
	{name: "attach-from", run: attachFrom},
	{name: "retry-turn", run: retryTurn, proxied: true},
	{name: "cancel-reconnecting", run: cancelReconnecting, proxied: true},
	{name: "concurrent", run: concurrent},
	{name: "health", run: health},
	{name: "service-config", run: serviceConfig},
	{name: "session-id", run: sessionID},
	{name: "tls-token", run: tlsToken},
	{name: "tls-wrong-token", run: tlsWrongToken},
	{name: "mutual-tls", run: mutualTLS},
	{name: "mutual-tls-no-certificate", run: mutualTLSNoCertificate},
}

func stream(s *step) {
	session := s.session()
	events := s.echoed(s.plain(), query(session, "hello"))
	var all strings.Builder
	for _, event := range events {
		all.WriteString(sessionpool.Text(event))
	}
	s.check(all.String() == "echo: hello", "the text is %q", all.String())
}

func text(s *step) { s.echoed(s.plain(), query(s.session(), "Grüße, 世界 🦀 e\u0301 \\ \"")) }

func numbers(s *step) {
	const frame = `raw {"type":"assistant","message":{"id":"msg_1","type":"message","role":"assistant","model":"m",` +
		`"content":[{"type":"tool_use","id":"toolu_1","name":"T","input":{"n":12345678901234567890,"f":0.1}}],` +
		`"usage":{"input_tokens":9007199254740993,"output_tokens":18446744073709551615}},"parent_tool_use_id":null,` +
		`"session_id":"00000000-0000-4000-8000-000000000000","uuid":"00000000-0000-4000-8000-000000000001"}`
	for _, event := range s.rest(s.plain().Query(s, query(s.session(), script(frame)))) {
		usage := event.GetAssistant().GetUsage()
		if usage.GetInputTokens() != 9007199254740993 {
			continue
		}
		s.check(usage.GetOutputTokens() == 18446744073709551615, "usage %v", usage)
		input := event.GetAssistant().GetContent()[0].GetToolUse().GetInputJson()
		s.check(input == `{"n":12345678901234567890,"f":0.1}`, "input %s", input)
		return
	}
	s.fail("no such event")
}

// large reports whether an event is the large one of a script.
func large(event *pb.TurnEvent) bool { return event.GetAssistant() != nil && proto.Size(event) > 4<<20 }

func (s *step) oneIsLarge(events []*pb.TurnEvent) {
	count := 0
	for _, event := range events {
		if large(event) {
			count++
		}
	}
	s.check(count == 1, "%d large events", count)
}

func parts(s *step) {
	session := s.session()
	events := s.rest(s.plain().Query(s, query(session, script("big 5000000"))))
	s.whole(events, session)
	s.oneIsLarge(events)
}

func cancel(s *step) {
	client, session := s.plain(), s.session()
	ctx, cancel := context.WithCancel(s)
	defer cancel()
	turn := client.Query(ctx, query(session, script("say one", "hang")))
	s.until(turn, "one")
	cancel()
	_, err := turn.Recv()
	s.check(errors.Is(err, context.Canceled) && s.failed(err).Code == codes.Canceled, "it ended with %v", err)
	s.usable(client, session)
}

func dropped(s *step) {
	client, session := s.plain(), s.session()
	for event, err := range client.Query(s, query(session, script("say one", "hang"))).Events() {
		s.must(err)
		if sessionpool.Text(event) == "one" {
			break
		}
	}
	s.usable(client, session)
}

func deadline(s *step) {
	ctx, cancel := context.WithTimeout(s, time.Second)
	defer cancel()
	began := time.Now()
	_, err := s.plain().Query(ctx, query(s.session(), script("hang"))).Result()
	took := time.Since(began)
	s.check(s.failed(err).Code == codes.DeadlineExceeded && errors.Is(err, context.DeadlineExceeded), "%v", err)
	s.check(took > 900*time.Millisecond && took < 4*time.Second, "after %v", took)
}

func (s *step) interrupted(turn *sessionpool.Turn) {
	result, err := turn.Result()
	if err != nil {
		s.check(s.failed(err).Reason == "TURN_INTERRUPTED", "it ended with %v", err)
		return
	}
	s.check(result.GetInterrupted(), "it ended with %v", result)
}

func interrupt(s *step) {
	session := s.session()
	turn := s.plain().Query(s, query(session, script("say one", "hang")))
	s.until(turn, "one")
	answer, err := s.plain().Interrupt(s, &pb.InterruptRequest{SessionId: session, KeepSession: true})
	s.must(err)
	s.check(answer.GetInterrupted() && answer.GetHadActiveTurn() &&
		answer.GetOutcome() == pb.InterruptOutcome_INTERRUPT_OUTCOME_INTERRUPTED, "the answer is %v", answer)
	s.interrupted(turn)
}

func errorInfo(s *step) {
	session := s.session()
	_, err := s.plain().GetSession(s, &pb.GetSessionRequest{SessionId: session})
	failed := s.failed(err)
	s.check(failed.Code == codes.NotFound && failed.Reason == "SESSION_NOT_FOUND" &&
		failed.Metadata["session_id"] == session && failed.Advice == sessionpool.NoRetry, "%+v", failed)
	s.check(sessionpool.Domain == "sessionpool.v1", "the domain is %s", sessionpool.Domain)
}

func badRequest(s *step) {
	_, err := s.plain().Query(s, query(s.session(), "")).Result()
	failed := s.failed(err)
	s.check(failed.Reason == "INVALID_ARGUMENT", "%v", err)
	for _, violation := range failed.Violations {
		if violation.Field == "prompt" {
			return
		}
	}
	s.fail("the fields are %v", failed.Violations)
}

func retryInfo(s *step) {
	client, session := s.plain(), s.session()
	first := client.Query(s, query(session, script("say one", "hang")))
	s.until(first, "one")
	ended := make(chan struct{})
	var waited error
	go func() {
		defer close(ended)
		_, waited = client.Query(s, query(session, "behind it")).Result()
	}()
	for {
		answer, err := client.GetSession(s, &pb.GetSessionRequest{SessionId: session})
		s.must(err)
		if answer.GetSession().GetQueuedTurns() == 1 {
			break
		}
	}
	_, err := client.Query(s, query(session, "too many")).Result()
	failed := s.failed(err)
	s.check(failed.Reason == "QUEUE_FULL" && failed.Code == codes.ResourceExhausted && failed.RetryAfter > 0 &&
		failed.Advice == sessionpool.SafeToRetry, "%+v", failed)
	answer, err := client.GetSession(s, &pb.GetSessionRequest{SessionId: session})
	s.must(err)
	for _, queued := range answer.GetSession().GetQueue() {
		_, err := client.Interrupt(s, &pb.InterruptRequest{SessionId: session, TurnId: queued.GetTurnId()})
		s.must(err)
	}
	<-ended
	s.check(s.failed(waited).Reason == "TURN_INTERRUPTED", "what waited ended with %v", waited)
	_, err = client.Interrupt(s, &pb.InterruptRequest{SessionId: session, KeepSession: true})
	s.must(err)
	s.interrupted(first)
}

func lasting(session string, lines ...string) *pb.QueryRequest {
	request := query(session, script(lines...))
	request.OnDisconnect = pb.DisconnectPolicy_DISCONNECT_POLICY_CONTINUE
	return request
}

func attach(s *step) {
	session := s.session()
	turn := s.plain().Query(s, lasting(session, "say one", "sleep 500", "say two"))
	events := s.until(turn, "one")
	s.control("/cut")
	events = append(events, s.rest(turn)...)
	s.whole(events, session)
	var said []string
	for _, event := range events {
		if sessionpool.Text(event) != "" {
			said = append(said, sessionpool.Text(event))
		}
	}
	s.check(reflect.DeepEqual(said, []string{"one", "two"}), "the texts are %q", said)
}

func attachParts(s *step) {
	session := s.session()
	turn := s.plain().Query(s, lasting(session, "say one", "sleep 300", "big 5000000"))
	events := s.until(turn, "one")
	s.control("/cut-after/3500000")
	events = append(events, s.rest(turn)...)
	s.whole(events, session)
	s.oneIsLarge(events)
}

func attachFrom(s *step) {
	client, session := s.plain(), s.session()
	turn := client.Query(s, query(session, "hello"))
	events := s.rest(turn)
	request := &pb.AttachRequest{SessionId: session, TurnId: turn.TurnID(), FromSequence: 2}
	again := s.rest(client.Attach(s, request))
	s.check(len(again) == len(events)-1, "%d events of %d", len(again), len(events))
	for i, event := range again {
		s.check(proto.Equal(event, events[i+1]), "%v in place of %v", event, events[i+1])
	}
}

func retryTurn(s *step) {
	session := s.session()
	request := query(session, "hello")
	request.TurnId = session
	s.control("/refuse")
	timer := time.AfterFunc(300*time.Millisecond, func() { s.control("/accept") })
	defer timer.Stop()
	client := s.plain()
	first := s.echoed(client, request)
	again := s.rest(client.Query(s, request))
	s.check(again[0].GetStarted().GetTurnId() == request.TurnId && first[0].GetStarted().GetTurnId() == request.TurnId,
		"turns %v and %v", first[0], again[0])
	s.check(again[len(again)-1].GetResult().GetResult() == "echo: hello", "it ends with %v", again[len(again)-1])
	answer, err := client.GetSession(s, &pb.GetSessionRequest{SessionId: session})
	s.must(err)
	s.check(answer.GetSession().GetMessageCount() == 1, "%d messages", answer.GetSession().GetMessageCount())
}

func cancelReconnecting(s *step) {
	ctx, cancel := context.WithCancel(s)
	defer cancel()
	session := s.session()
	turn := s.plain().Query(ctx, lasting(session, "say one", "hang"))
	s.until(turn, "one")
	s.control("/refuse")
	s.control("/cut")
	ended := make(chan error, 1)
	go func() {
		_, err := turn.Recv()
		ended <- err
	}()
	select {
	case err := <-ended:
		s.fail("it has given up by itself: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	began := time.Now()
	cancel()
	err := <-ended
	s.control("/accept")
	s.check(errors.Is(err, context.Canceled) && s.failed(err).Code == codes.Canceled, "it ended with %v", err)
	s.check(time.Since(began) < 2*time.Second, "it ended after %v", time.Since(began))
	// It would go on for its caller to come back.
	_, err = s.client("CONFORMANCE_PLAIN").Interrupt(s, &pb.InterruptRequest{SessionId: session})
	s.must(err)
}

func concurrent(s *step) {
	client := s.plain()
	var all sync.WaitGroup
	wrong := make(chan string, 16)
	for number := range 16 {
		request := query(s.session(), fmt.Sprintf("turn %d", number))
		all.Go(func() {
			result, err := client.Query(s, request).Result()
			if err != nil || result.GetResult() != "echo: "+request.GetPrompt() {
				wrong <- fmt.Sprintf("%s: %v, %v", request.GetPrompt(), result, err)
			}
		})
	}
	all.Wait()
	select {
	case problem := <-wrong:
		s.fail("%s", problem)
	default:
	}
}

func health(s *step) {
	client := s.plain()
	for _, service := range []string{"", "sessionpool.v1.SessionPoolService"} {
		state, err := client.Health(s, service)
		s.check(err == nil && state == healthpb.HealthCheckResponse_SERVING, "%q: %v, %v", service, state, err)
	}
	s.must(client.Healthy(s))
	_, err := client.Health(s, "nobody")
	s.check(s.failed(err).Code == codes.NotFound, "nobody: %v", err)
}

func serviceConfig(s *step) {
	deployed, err := os.ReadFile(variable("CONFORMANCE_SERVICE_CONFIG"))
	s.must(err)
	var want, got any
	s.must(json.Unmarshal(deployed, &want))
	s.must(json.Unmarshal([]byte(sessionpool.ServiceConfig), &got))
	s.check(reflect.DeepEqual(want, got), "they differ")
}

func sessionID(s *step) {
	var sent [][]string
	note := func(ctx context.Context) {
		data, _ := metadata.FromOutgoingContext(ctx)
		sent = append(sent, data.Get("session-id"))
	}
	client := s.plain(sessionpool.WithDialOptions(
		grpc.WithChainUnaryInterceptor(func(
			ctx context.Context, method string, request, reply any, connection *grpc.ClientConn,
			invoke grpc.UnaryInvoker, options ...grpc.CallOption,
		) error {
			note(ctx)
			return invoke(ctx, method, request, reply, connection, options...)
		}),
		grpc.WithChainStreamInterceptor(func(
			ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string,
			open grpc.Streamer, options ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			note(ctx)
			return open(ctx, description, connection, method, options...)
		})))
	session := s.session()
	s.echoed(client, query(session, "hello"))
	_, err := client.GetSession(s, &pb.GetSessionRequest{SessionId: session})
	s.must(err)
	_, err = client.Query(s, query("", "hello")).Result()
	s.must(err)
	s.check(reflect.DeepEqual(sent, [][]string{{session}, {session}, nil}), "sent %q", sent)
}
