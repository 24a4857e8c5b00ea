package sessionpool

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

// Domain is the domain of the service's own errors.
const Domain = "sessionpool.v1"

const reasonPrefix = "ERROR_REASON_"

// Advice says what to do about an error.
type Advice int

const (
	// NoRetry: it would fail again, or something might happen twice.
	NoRetry Advice = iota
	// SafeToRetry: nothing of the call took effect. It may be sent again as it is, after RetryAfter.
	SafeToRetry
	// RetrySameTurn: it may have taken effect. A Query may be sent again with the same turn id: nothing
	// whose result was told runs twice.
	RetrySameTurn
	// AttachAgain: events are missing. Attach from FirstKept joins the turn again.
	AttachAgain
)

func (a Advice) String() string {
	return [...]string{"NO_RETRY", "RETRY", "RETRY_SAME_TURN", "ATTACH"}[a]
}

// FieldViolation is what is wrong with one field of a request.
type FieldViolation struct {
	Field       string
	Description string
}

// Error is how a call failed. Every error of this package's calls is one, or wraps one; those that the
// caller's own context caused are also context.Canceled or context.DeadlineExceeded for errors.Is.
type Error struct {
	// Code is gRPC's code.
	Code codes.Code
	// Message is for people.
	Message string
	// Reason is the service's reason, such as SESSION_BUSY; empty if the error is not the service's own,
	// as when the connection was lost.
	Reason string
	// Metadata is what the service said with it: session_id, turn_id, tool_use_seen and others.
	Metadata map[string]string
	// Violations are the fields that are wrong, of INVALID_ARGUMENT and POLICY_DENIED.
	Violations []FieldViolation
	// Advice says what to do about it.
	Advice Advice
	// RetryAfter is how long the service asks to wait before that; 0 if it does not say.
	RetryAfter time.Duration

	state *status.Status
	cause error
}

// Error implements error.
func (e *Error) Error() string {
	name := e.Reason
	if name == "" {
		name = e.Code.String()
	}
	return fmt.Sprintf("session-pool: %s: %s", name, e.Message)
}

// GRPCStatus makes status.FromError and status.Code work.
func (e *Error) GRPCStatus() *status.Status { return e.state }

// Unwrap returns what caused it, if that is an error too.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether it has the reason of target, for errors.Is(err, Reason(…)).
func (e *Error) Is(target error) bool {
	reason, ok := target.(Reason)
	return ok && e.Reason == reason.name()
}

// Reason is a reason of the contract as a target of errors.Is:
//
//	errors.Is(err, sessionpool.Reason(pb.ErrorReason_ERROR_REASON_SESSION_BUSY))
type Reason pb.ErrorReason

func (r Reason) name() string { return pb.ErrorReason(r).String()[len(reasonPrefix):] }

// Error implements error.
func (r Reason) Error() string { return r.name() }

// ReasonOf returns the reason of an error: UNSPECIFIED if it has none, or one of a newer service.
func ReasonOf(err error) pb.ErrorReason {
	if failure, ok := errors.AsType[*Error](err); ok {
		return pb.ErrorReason(pb.ErrorReason_value[reasonPrefix+failure.Reason])
	}
	return pb.ErrorReason_ERROR_REASON_UNSPECIFIED
}

// FirstKept returns the first sequence, of LISTENER_TOO_SLOW and EVENTS_EXPIRED, from which Attach can
// join the turn again.
func (e *Error) FirstKept() (uint64, bool) {
	if e.Reason != "LISTENER_TOO_SLOW" && e.Reason != "EVENTS_EXPIRED" {
		return 0, false
	}
	sequence, err := strconv.ParseUint(e.Metadata["limit"], 10, 64)
	return sequence, err == nil
}

// failure turns an error of gRPC into an *Error. ctx is the caller's: what it ended is its doing. It is not
// gRPC's of a stream, which is cancelled when the stream ends, however that was.
func failure(ctx context.Context, err error) *Error {
	if failed, ok := errors.AsType[*Error](err); ok {
		return failed
	}
	state, isStatus := status.FromError(err)
	if !isStatus {
		// The context's own errors, for example.
		state = status.FromContextError(err)
	}
	failed := &Error{Code: state.Code(), Message: state.Message(), state: state}
	for _, detail := range state.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == Domain {
				failed.Reason, failed.Metadata = detail.GetReason(), detail.GetMetadata()
			}
		case *errdetails.RetryInfo:
			failed.RetryAfter = detail.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				failed.Violations = append(failed.Violations,
					FieldViolation{violation.GetField(), violation.GetDescription()})
			}
		}
	}
	failed.Advice = advice(failed, false)
	switch {
	case failed.Code == codes.DeadlineExceeded && failed.Reason == "":
		// The service's clock may be the first to say so.
		failed.cause = context.DeadlineExceeded
	case failed.Code == codes.Canceled && ctx.Err() != nil:
		failed.cause = ctx.Err()
	}
	return failed
}

// advice is the table of docs/calling.md as far as it is about asking again. hasStarted says whether the
// turn had.
func advice(e *Error, hasStarted bool) Advice {
	toolUseSeen := e.Metadata["tool_use_seen"]
	switch e.Reason {
	case "":
		if e.Code == codes.Unavailable {
			return RetrySameTurn
		}
	case "POOL_AT_CAPACITY", "QUEUE_FULL", "MEMORY_BUDGET_EXCEEDED", "TENANT_QUOTA_EXCEEDED", "SESSION_BUSY",
		"CONNECT_FAILED":
		return SafeToRetry
	case "STORE_UNAVAILABLE":
		if toolUseSeen != "true" {
			return SafeToRetry
		}
	case "SHUTTING_DOWN", "SESSION_MOVED":
		switch {
		case toolUseSeen == "false":
			return SafeToRetry
		case toolUseSeen == "true":
			return NoRetry
		case e.Reason == "SHUTTING_DOWN" && !hasStarted:
			return SafeToRetry
		}
		return RetrySameTurn
	case "CLI_EXITED", "MEMORY_LIMIT", "TASK_LIMIT_EXCEEDED", "WORKSPACE_LIMIT_EXCEEDED":
		if toolUseSeen == "false" {
			return SafeToRetry
		}
	case "LISTENER_TOO_SLOW", "EVENTS_EXPIRED":
		return AttachAgain
	}
	return NoRetry
}
