// What a caller waits for on the real CLI; `make bench` runs it.
package pool

import (
	"slices"
	"testing"
	"time"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

// rounds is the number of measurements that a median is taken of.
const rounds = 7

// ask runs a turn and returns the time to the first event that comes from the CLI.
func (c *caller) ask(prompt string) time.Duration {
	c.Helper()
	began := time.Now()
	stream, err := c.stub.Query(c.ctx, &pb.QueryRequest{SessionId: c.session, Prompt: prompt})
	c.must(err)
	_, err = next(stream)
	c.must(err)
	_, err = next(stream)
	c.must(err)
	first := time.Since(began)
	_, err = rest(stream)
	c.must(err)
	return first
}

func median(values []time.Duration) float64 {
	slices.Sort(values)
	return float64(values[len(values)/2].Microseconds()) / 1000
}

// The time to the first event of new and of warm sessions.
func BenchmarkFirstEvent(b *testing.B) {
	var cold, warm []time.Duration
	for range rounds {
		c := newCaller(b)
		cold = append(cold, c.ask("hello"))
		for range 3 {
			warm = append(warm, c.ask("hello again"))
		}
		c.close()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(cold), "cold-ms")
	b.ReportMetric(median(warm), "warm-ms")
}

// The memory of a CLI process that waits for its second turn.
func BenchmarkIdleSession(b *testing.B) {
	c := newCaller(b)
	c.ask("hello")
	stats, err := c.stub.GetStats(c.ctx, &pb.GetStatsRequest{})
	c.must(err)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(stats.GetProcessMemoryBytes())/float64(max(stats.GetProcesses(), 1))/(1<<20), "MiB/process")
}
