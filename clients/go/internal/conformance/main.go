// Command conformance runs the steps of clients/CONFORMANCE.md, which says what each of them is, and prints a
// line for each.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	sessionpool "github.com/session-pool/session-pool/clients/go"
	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

const (
	stepLimit = time.Minute
	// atOnce is how many steps run at the same time: other clients' do, too.
	atOnce = 4
)

// step is one step: what it needs, and how it failed.
type step struct {
	context.Context
	name    string
	proxied bool
	run     func(*step)
	problem string
	clients []*sessionpool.Client
}

// stop ends a step that has failed.
type stop struct{}

func (s *step) fail(format string, values ...any) {
	s.problem = fmt.Sprintf(format, values...)
	panic(stop{})
}

func (s *step) must(err error) {
	if err != nil {
		s.fail("%v", err)
	}
}

func (s *step) check(holds bool, format string, values ...any) {
	if !holds {
		s.fail(format, values...)
	}
}

var sessions atomic.Int32

// session is a new id.
func (s *step) session() string {
	return fmt.Sprintf("%s-%s-%d", variable("CONFORMANCE_RUN"), s.name, sessions.Add(1))
}

func (s *step) client(where string, options ...sessionpool.Option) *sessionpool.Client {
	client, err := sessionpool.New(variable(where), options...)
	s.must(err)
	s.clients = append(s.clients, client)
	return client
}

func (s *step) plain(options ...sessionpool.Option) *sessionpool.Client {
	if s.proxied {
		return s.client("CONFORMANCE_PROXY", options...)
	}
	return s.client("CONFORMANCE_PLAIN", options...)
}

// control tells the proxy what to do.
func (s *step) control(path string) {
	answer, err := http.Post(variable("CONFORMANCE_PROXY_CONTROL")+path, "", nil)
	s.must(err)
	answer.Body.Close()
	s.check(answer.StatusCode == http.StatusNoContent, "the proxy answered %s to %s", answer.Status, path)
}

func variable(name string) string {
	value := os.Getenv(name)
	if value == "" {
		fmt.Fprintf(os.Stderr, "conformance: %s is not set\n", name)
		os.Exit(2)
	}
	return value
}

// script is a prompt for the scripted CLI.
func script(lines ...string) string { return "#!fake\n" + strings.Join(lines, "\n") }

func query(session, prompt string) *pb.QueryRequest {
	return &pb.QueryRequest{SessionId: session, Prompt: prompt}
}

// until reads a turn up to the event with this text.
func (s *step) until(turn *sessionpool.Turn, text string) (events []*pb.TurnEvent) {
	for {
		event, err := turn.Recv()
		s.must(err)
		if events = append(events, event); sessionpool.Text(event) == text {
			return events
		}
	}
}

func (s *step) rest(turn *sessionpool.Turn) (events []*pb.TurnEvent) {
	for event, err := range turn.Events() {
		s.must(err)
		events = append(events, event)
	}
	return events
}

// whole checks a turn that ended well, and returns its result.
func (s *step) whole(events []*pb.TurnEvent, session string) *pb.TurnResult {
	s.check(len(events) > 1, "%d events", len(events))
	for i, event := range events {
		s.check(event.GetSequence() == uint64(i+1), "event %d has the sequence %d", i+1, event.GetSequence())
	}
	s.check(events[0].GetStarted().GetSessionId() == session, "it begins with %v", events[0])
	result := events[len(events)-1].GetResult()
	s.check(result != nil && !result.GetIsError(), "it ends with %.300v", events[len(events)-1])
	return result
}

// echoed runs a turn that is answered with its prompt.
func (s *step) echoed(client *sessionpool.Client, request *pb.QueryRequest) []*pb.TurnEvent {
	events := s.rest(client.Query(s, request))
	want := "echo: " + request.GetPrompt()
	if got := s.whole(events, request.GetSessionId()).GetResult(); got != want {
		s.fail("the result is %q, not %q", got, want)
	}
	return events
}

// usable checks that a session takes a turn at once.
func (s *step) usable(client *sessionpool.Client, session string) {
	began := time.Now()
	s.echoed(client, query(session, "hello"))
	s.check(time.Since(began) < 5*time.Second, "the next turn took %v", time.Since(began))
}

// failed checks that a call failed, and returns how.
func (s *step) failed(err error) *sessionpool.Error {
	var failed *sessionpool.Error
	s.check(errors.As(err, &failed), "in place of an error: %v", err)
	return failed
}

func (s *step) execute() {
	ctx, cancel := context.WithTimeout(context.Background(), stepLimit)
	defer cancel()
	s.Context = ctx
	began := time.Now()
	defer func() {
		fmt.Fprintf(os.Stderr, "%s: %v\n", s.name, time.Since(began).Round(time.Millisecond))
		for _, client := range s.clients {
			client.Close()
		}
		switch cause := recover(); cause.(type) {
		case nil:
			fmt.Println("ok", s.name)
		case stop:
			fmt.Printf("FAILED %s: %s\n", s.name, strings.ReplaceAll(s.problem, "\n", " "))
		default:
			panic(cause)
		}
	}()
	s.run(s)
}

func versions() {
	fmt.Println("version session-pool-go", sessionpool.Version)
	fmt.Println("version", runtime.Version())
	fmt.Println("version grpc", grpc.Version)
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, module := range build.Deps {
			if module.Path == "google.golang.org/protobuf" {
				fmt.Println("version protobuf", module.Version)
			}
		}
	}
}

func main() {
	versions()
	var running sync.WaitGroup
	var proxied []*step
	free := make(chan struct{}, atOnce)
	for _, s := range steps {
		if s.proxied {
			proxied = append(proxied, s)
			continue
		}
		running.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			s.execute()
		})
	}
	// The cuts of one would meet the other.
	for _, s := range proxied {
		s.execute()
	}
	running.Wait()
	for _, s := range steps {
		if s.problem != "" {
			os.Exit(1)
		}
	}
}
