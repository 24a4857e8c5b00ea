// Runs turns against a live service at SESSION_POOL_TARGET, whose API is the
// stand-in. Every test has a session of its own; one is selected with -run.
package pool

import (
	"context"
	"crypto/rand"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

const (
	// timeout bounds every call: a bug in the service must not hang the tests.
	timeout = time.Minute
	// promptStop is much less than the 20 seconds that a slow answer takes.
	promptStop = 5 * time.Second
	slow       = "[[words 400 every 50]]"
)

// caller is a session with two connections to the service.
type caller struct {
	testing.TB
	ctx     context.Context
	session string
	stub    pb.SessionPoolServiceClient
	second  pb.SessionPoolServiceClient
}

func newCaller(t testing.TB) *caller {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	c := &caller{TB: t, ctx: ctx, session: "go-" + t.Name() + "-" + rand.Text()}
	t.Cleanup(cancel)
	c.stub, c.second = c.connect(), c.connect()
	t.Cleanup(c.close)
	return c
}

// close ends the session, which may be gone already.
func (c *caller) close() {
	_, err := c.stub.CloseSession(c.ctx, &pb.CloseSessionRequest{SessionId: c.session, Forget: true})
	if code := status.Code(err); code != codes.OK && code != codes.NotFound {
		c.Errorf("CloseSession: %v", err)
	}
}

func (c *caller) connect() pb.SessionPoolServiceClient {
	c.Helper()
	address := os.Getenv("SESSION_POOL_TARGET")
	if address == "" {
		c.Skip("SESSION_POOL_TARGET is not set")
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	c.must(err)
	c.Cleanup(func() { conn.Close() })
	return pb.NewSessionPoolServiceClient(conn)
}

func (c *caller) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *caller) start(ctx context.Context, prompt, turnID string) grpc.ServerStreamingClient[pb.QueryResponse] {
	c.Helper()
	stream, err := c.stub.Query(ctx, &pb.QueryRequest{
		SessionId: c.session,
		Prompt:    prompt,
		TurnId:    turnID,
		Options:   &pb.SessionOptions{IncludePartialMessages: proto.Bool(true)},
	})
	c.must(err)
	return stream
}

// complete runs a turn to its end and checks what holds for every turn.
func (c *caller) complete(prompt, turnID string) turn {
	c.Helper()
	events, err := rest(c.start(c.ctx, prompt, turnID))
	c.must(err)
	c.must(events.check())
	return events
}

// untilText returns the events of a stream up to the first piece of text.
func (c *caller) untilText(s stream[*pb.QueryResponse]) turn {
	c.Helper()
	var seen turn
	for {
		event, err := next(s)
		c.must(err)
		seen = append(seen, event)
		if event.GetStreamEvent().GetText() != "" {
			return seen
		}
	}
}

// usableAtOnce checks that the next turn runs at once, on the same process, and
// has nothing of the one before in it.
func (c *caller) usableAtOnce(clientID string) {
	c.Helper()
	began := time.Now()
	after := c.complete("[[say only this]]", "")
	if took := time.Since(began); took > promptStop {
		c.Errorf("the next turn took %v", took)
	}
	if got := after.started(); got.GetOrigin() != pb.TurnOrigin_TURN_ORIGIN_REUSED || got.GetClientId() != clientID {
		c.Errorf("the next turn is not on the process %s: %v", clientID, got)
	}
	if after.streamedText() != "only this" || after.text() != "only this" {
		c.Errorf("the next turn says %q, streamed %q", after.text(), after.streamedText())
	}
}

func (c *caller) sameEvents(what string, got, want turn) {
	c.Helper()
	if !slices.EqualFunc(got, want, func(a, b *pb.TurnEvent) bool { return proto.Equal(a, b) }) {
		c.Errorf("%s: %d events differ from the caller's %d:\n%v\n%v", what, len(got), len(want), got, want)
	}
}

func TestTwoTurnsShareProcessAndMemory(t *testing.T) {
	c := newCaller(t)
	first := c.complete("My name is Ada.", "")
	if got := first.started().GetOrigin(); got != pb.TurnOrigin_TURN_ORIGIN_CREATED {
		t.Errorf("the first turn's origin is %v", got)
	}
	if text := first.streamedText(); !strings.Contains(text, `You said: "My name is Ada."`) || text != first.text() {
		t.Errorf("streamed %q, whole %q", text, first.text())
	}

	second := c.complete("What is my name?", "")
	if got := second.started(); got.GetOrigin() != pb.TurnOrigin_TURN_ORIGIN_REUSED ||
		got.GetClientId() != first.started().GetClientId() {
		t.Errorf("first on %v, second on %v", first.started(), got)
	}
	if !strings.Contains(second.text(), "My name is Ada.") {
		t.Errorf("the second turn does not remember the first: %q", second.text())
	}
}

func TestEventOverTheMessageLimitArrivesWhole(t *testing.T) {
	c := newCaller(t)
	got := c.complete("[[deltas 5 size 1000000]]", "")
	if text := got.text(); len(text) != 5_000_000 || text != got.streamedText() || text != got.result().GetResult() {
		t.Errorf("%d characters, streamed %d, as the result %d",
			len(text), len(got.streamedText()), len(got.result().GetResult()))
	}
}

func TestInterruptFromASecondConnection(t *testing.T) {
	c := newCaller(t)
	stream := c.start(c.ctx, slow, "")
	clientID := c.untilText(stream).started().GetClientId()
	began := time.Now()
	answer, err := c.second.Interrupt(c.ctx, &pb.InterruptRequest{SessionId: c.session, KeepSession: true})
	c.must(err)
	if !answer.GetInterrupted() || !answer.GetHadActiveTurn() ||
		answer.GetOutcome() != pb.InterruptOutcome_INTERRUPT_OUTCOME_INTERRUPTED ||
		answer.GetElapsed().AsDuration() > promptStop {
		t.Errorf("interrupt: %v", answer)
	}
	// The turn ends with a result that says so, or with an error that does.
	events, err := rest(stream)
	if err != nil {
		if got := failureOf(err); got.code != codes.Canceled || got.reason != "TURN_INTERRUPTED" {
			t.Errorf("the turn ended with %v", err)
		}
	} else if !events.result().GetInterrupted() {
		t.Errorf("the turn ended with %v", events.result())
	}
	if took := time.Since(began); took > promptStop {
		t.Errorf("the interrupt took %v", took)
	}
	c.usableAtOnce(clientID)
}

func TestEmptyPromptIsRefused(t *testing.T) {
	c := newCaller(t)
	_, err := rest(c.start(c.ctx, "", ""))
	got := failureOf(err)
	if got.code != codes.InvalidArgument || got.reason != "INVALID_ARGUMENT" || got.domain != "sessionpool.v1" ||
		!slices.Contains(got.fields, "prompt") {
		t.Errorf("%+v", got)
	}
}

func TestUnknownSessionIsNotFound(t *testing.T) {
	c := newCaller(t)
	_, err := c.stub.GetSession(c.ctx, &pb.GetSessionRequest{SessionId: c.session})
	got := failureOf(err)
	if got.code != codes.NotFound || got.reason != "SESSION_NOT_FOUND" || got.domain != "sessionpool.v1" ||
		got.metadata["session_id"] != c.session {
		t.Errorf("%+v", got)
	}
}

func TestStats(t *testing.T) {
	c := newCaller(t)
	before, err := c.stub.GetStats(c.ctx, &pb.GetStatsRequest{})
	c.must(err)
	c.complete("hello", "")
	stats, err := c.stub.GetStats(c.ctx, &pb.GetStatsRequest{})
	c.must(err)
	if !stats.GetEnabled() ||
		stats.GetTotalSessions() != before.GetTotalSessions()+1 ||
		stats.GetActiveSessions() != before.GetActiveSessions()+1 ||
		stats.GetMaxSessions() != 1000 ||
		stats.GetTotalMessages() != before.GetTotalMessages()+1 ||
		stats.GetSessionTtl().AsDuration() != time.Hour ||
		stats.GetCleanupInterval().AsDuration() != 5*time.Minute {
		t.Errorf("before: %v\nafter: %v", before, stats)
	}
}

func TestDeadlinePassesWhileTheCLIIsSilent(t *testing.T) {
	c := newCaller(t)
	first := c.complete("hello", "")
	ctx, cancel := context.WithTimeout(c.ctx, 2*time.Second)
	defer cancel()
	began := time.Now()
	if _, err := rest(c.start(ctx, "[[stall before-headers]]", "")); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the turn ended with %v", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the deadline took %v", took)
	}
	c.usableAtOnce(first.started().GetClientId())
}

func TestCancelInMidStream(t *testing.T) {
	c := newCaller(t)
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	seen := c.untilText(c.start(ctx, slow, ""))
	cancel()
	c.usableAtOnce(seen.started().GetClientId())
}

func TestAttachJoinsARunningTurnFromItsStart(t *testing.T) {
	c := newCaller(t)
	stream := c.start(c.ctx, "[[words 40 every 50]]", "")
	seen := c.untilText(stream)
	attached, err := c.second.Attach(c.ctx, &pb.AttachRequest{
		SessionId: c.session, FromSequence: 1, IncludePartialMessages: true,
	})
	c.must(err)
	first, err := next(attached)
	c.must(err)
	if first.GetStarted() == nil {
		t.Errorf("Attach begins with %v", first)
	}

	others, err := rest(stream)
	c.must(err)
	same, err := rest(attached)
	c.must(err)
	seen = append(seen, others...)
	c.must(seen.check())
	c.sameEvents("Attach", append(turn{first}, same...), seen)
}

func TestRetryWithTheSameTurnIDJoins(t *testing.T) {
	c := newCaller(t)
	before := c.complete("hello", "")
	turnID := "turn-" + rand.Text()
	stream := c.start(c.ctx, "[[words 20 every 50]]", turnID)
	first := c.untilText(stream)
	// While the turn runs, and once it has ended.
	whileRunning := c.complete("[[words 20 every 50]]", turnID)
	others, err := rest(stream)
	c.must(err)
	first = append(first, others...)
	afterTheEnd := c.complete("[[words 20 every 50]]", turnID)

	if got := first.started().GetTurnId(); got != turnID {
		t.Errorf("the turn's id is %q", got)
	}
	c.sameEvents("retry while it runs", whileRunning, first)
	c.sameEvents("retry after its end", afterTheEnd, first)
	answer, err := c.stub.GetSession(c.ctx, &pb.GetSessionRequest{SessionId: c.session})
	c.must(err)
	if got := answer.GetSession(); got.GetMessageCount() != 2 || got.GetClientId() != before.started().GetClientId() {
		t.Errorf("the session after two turns and two retries: %v", got)
	}
}
