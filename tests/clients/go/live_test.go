package pool

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sessionpool "github.com/session-pool/session-pool/clients/go"
	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

// killable is a service of the test's own, on the scripted CLI, that is killed and started again at the same
// address and with the same state.
type killable struct {
	testing.TB
	address, folder string
	command         *exec.Cmd
}

func newKillable(t testing.TB) *killable {
	t.Helper()
	// A port that was free a moment ago: the service has to come back to it.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "killable-")
	if err != nil {
		t.Fatal(err)
	}
	k := &killable{TB: t, address: free.Addr().String(), folder: folder}
	free.Close()
	// The last to be cleaned up.
	t.Cleanup(k.removeFolder)
	k.start()
	t.Cleanup(k.kill)
	return k
}

func (k *killable) start() {
	k.Helper()
	programs := os.Getenv("SESSION_POOL_PROGRAMS")
	k.command = exec.Command(filepath.Join(programs, "session-pool"), "serve")
	k.command.Env = append(os.Environ(),
		"SESSION_POOL__SERVER__LISTEN="+k.address,
		"SESSION_POOL__STATE_DIR="+filepath.Join(k.folder, "state"),
		"SESSION_POOL__CLI__PATH="+filepath.Join(programs, "fake-claude"),
		"SESSION_POOL__CLI__SANDBOX=process-tree",
		// Less than the turns below say: what is not read is in a file.
		"SESSION_POOL__POOL__TURN_BUFFER_BYTES=64KiB")
	if err := k.command.Start(); err != nil {
		k.Fatal(err)
	}
}

// What a killed service had running ends just behind it, and may write to its folder until then.
func (k *killable) removeFolder() {
	deadline := time.Now().Add(timeout)
	for {
		err := os.RemoveAll(k.folder)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			k.Error(err)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (k *killable) kill() {
	k.command.Process.Kill()
	k.command.Wait()
}

func (k *killable) client() *sessionpool.Client {
	k.Helper()
	client, err := sessionpool.New(k.address)
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { client.Close() })
	return client
}

// The service is killed in the middle of a turn and started again: the client finds it, and tells that the
// turn is gone. Asked for again by its id, it runs on the same conversation.
func TestTheServiceIsKilledInMidStream(t *testing.T) {
	k := newKillable(t)
	client := k.client()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	request := &pb.QueryRequest{
		SessionId: "s", TurnId: "t-" + rand.Text(), Prompt: "#!fake\nsay one\nhang",
		OnDisconnect: pb.DisconnectPolicy_DISCONNECT_POLICY_CONTINUE,
	}
	turn := client.Query(ctx, request)
	for {
		event, err := turn.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if sessionpool.Text(event) == "one" {
			break
		}
	}
	k.kill()
	k.start()
	_, err := turn.Recv()
	var failed *sessionpool.Error
	if !errors.As(err, &failed) || failed.Reason != "TURN_NOT_FOUND" && failed.Reason != "SESSION_NOT_FOUND" ||
		failed.Advice != sessionpool.RetrySameTurn {
		t.Fatalf("the turn ended with %v", err)
	}
	request.Prompt = "hello"
	if result, err := client.Query(ctx, request).Result(); err != nil || result.GetResult() != "echo: hello" {
		t.Errorf("again: %v, %v", result, err)
	}
}

// A result that was told is told again after a kill, and nothing runs twice.
func TestTheServiceIsKilledBehindAResult(t *testing.T) {
	k := newKillable(t)
	client := k.client()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	request := &pb.QueryRequest{SessionId: "s", TurnId: "t-" + rand.Text(), Prompt: "hello"}
	for range 2 {
		result, err := client.Query(ctx, request).Result()
		if err != nil || result.GetResult() != "echo: hello" {
			t.Fatalf("%v, %v", result, err)
		}
		k.kill()
		k.start()
	}
	answer, err := client.GetSession(ctx, &pb.GetSessionRequest{SessionId: "s"})
	if err != nil || answer.GetSession().GetMessageCount() > 1 {
		t.Errorf("%v, %v", answer.GetSession().GetMessageCount(), err)
	}
}

// Who reads slowly is given all events, late, while others are served on the same connection.
func TestASlowReaderIsGivenAllEvents(t *testing.T) {
	k := newKillable(t)
	client := k.client()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	const many = 20
	script := "#!fake" + strings.Repeat("\nbig 500000", many)
	slow := client.Query(ctx, &pb.QueryRequest{SessionId: "slow", Prompt: script})
	if _, err := slow.Recv(); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := client.Query(ctx, &pb.QueryRequest{SessionId: "quick", Prompt: "hello"}).Result(); err != nil {
			t.Fatal(err)
		}
	}
	sequence, large := uint64(1), 0
	for event, err := range slow.Events() {
		if err != nil {
			t.Fatal(err)
		}
		if sequence++; event.GetSequence() != sequence {
			t.Fatalf("event %d in place of %d", event.GetSequence(), sequence)
		}
		if len(sessionpool.Text(event)) >= 500_000 {
			large++
		}
	}
	if large != many {
		t.Errorf("%d large events", large)
	}
}
