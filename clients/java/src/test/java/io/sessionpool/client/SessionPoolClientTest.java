package io.sessionpool.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.rpc.ErrorInfo;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.sessionpool.v1.ErrorReason;
import io.sessionpool.v1.GetSessionRequest;
import io.sessionpool.v1.GetStatsRequest;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class SessionPoolClientTest {
  /** Where the package is; Maven says so. */
  private static final Path FOLDER = Path.of(System.getProperty("basedir", ""));

  @Test
  void theServiceConfigIsTheDeployedOne() throws Exception {
    assertEquals(Files.readString(FOLDER.resolve("../../deploy/service_config.json")), SessionPoolClient.serviceConfig());
  }

  @Test
  void theVersionIsThatOfThePackage() throws Exception {
    String pom = Files.readString(FOLDER.resolve("pom.xml"));
    assertTrue(pom.contains("<version>" + SessionPoolClient.VERSION + "</version>"));
  }

  @Test
  void theServiceConfigIsInForce() throws Exception {
    try (FakeService service = new FakeService();
        SessionPoolClient client = service.client()) {
      assertEquals(7, client.getStats(GetStatsRequest.getDefaultInstance()).getMaxSessions());
      assertEquals(3, service.calls.get());
    }
  }

  @Test
  void errorsOfUnaryCallsAreTyped() throws Exception {
    try (FakeService service = new FakeService();
        SessionPoolClient client = service.client()) {
      GetSessionRequest request = GetSessionRequest.newBuilder().setSessionId("nobody").build();
      SessionPoolException failed = assertThrows(SessionPoolException.class, () -> client.getSession(request));
      assertEquals(Status.Code.NOT_FOUND, failed.code());
      assertEquals(ErrorReason.ERROR_REASON_SESSION_NOT_FOUND, failed.errorReason());
      assertEquals(Map.of("session_id", "nobody"), failed.metadata());
    }
  }

  /** What becomes of a stream whose node is killed behind Envoy and nginx, which reset it, and HAProxy, which ends it. */
  @Test
  void aStreamThatAProxyHasEndedIsALostConnection() {
    String reset = "RST_STREAM closed stream. HTTP/2 error code: INTERNAL_ERROR";
    String ended = "Received unexpected EOS on empty DATA frame from server";
    for (String words : List.of(reset, ended)) {
      assertTrue(SessionPoolException.of(Status.INTERNAL.withDescription(words)).isLostConnection(), words);
    }
    assertFalse(SessionPoolException.of(Status.INTERNAL.withDescription("a bug")).isLostConnection());
  }

  @Test
  void theReasonOfSomebodyElseIsNoReason() {
    ErrorInfo info = ErrorInfo.newBuilder().setDomain("example.com").setReason("SESSION_BUSY").build();
    com.google.rpc.Status.Builder status = com.google.rpc.Status.newBuilder().setCode(Status.Code.ABORTED.value());
    StatusRuntimeException thrown = StatusProto.toStatusRuntimeException(status.addDetails(Any.pack(info)).build());
    SessionPoolException failed = SessionPoolException.of(thrown.getStatus(), thrown.getTrailers(), false);
    assertEquals("", failed.reason());
    assertEquals(Advice.NO_RETRY, failed.advice());
  }

  /** A reason that the contract gets has to have its advice, which for most is none. */
  @Test
  void everyReasonHasItsAdvice() {
    Map<Advice, List<String>> want =
        Map.of(
            Advice.RETRY,
            words(
                "POOL_AT_CAPACITY QUEUE_FULL MEMORY_BUDGET_EXCEEDED TENANT_QUOTA_EXCEEDED SESSION_BUSY"
                    + " CONNECT_FAILED STORE_UNAVAILABLE SHUTTING_DOWN"),
            Advice.RETRY_SAME_TURN,
            words("SESSION_MOVED"),
            Advice.ATTACH,
            words("LISTENER_TOO_SLOW EVENTS_EXPIRED"),
            Advice.NO_RETRY,
            words(
                "UNSPECIFIED INVALID_ARGUMENT POOL_DISABLED OPTIONS_MISMATCH POLICY_DENIED UNAUTHENTICATED"
                    + " SESSION_NOT_FOUND TURN_NOT_FOUND PROMPT_NOT_FOUND TASK_NOT_FOUND BACKGROUND_TIMEOUT"
                    + " CLI_NOT_FOUND FIRST_CHUNK_TIMEOUT STREAM_STALLED TURN_INTERRUPTED CLI_EXITED"
                    + " FRAME_TOO_LARGE PROTOCOL_ERROR INTERNAL UNIMPLEMENTED MEMORY_LIMIT TASK_LIMIT_EXCEEDED"
                    + " WORKSPACE_LIMIT_EXCEEDED"
                    + " DEADLINE_EXCEEDED SESSION_CONFLICT BUDGET_EXHAUSTED CREDENTIALS_REFUSED"));
    for (ErrorReason value : ErrorReason.values()) {
      if (value != ErrorReason.UNRECOGNIZED) {
        String reason = value.name().substring("ERROR_REASON_".length());
        Advice advice = Advice.of(Status.Code.UNAVAILABLE, reason, Map.of(), false);
        assertTrue(want.get(advice).contains(reason), reason + " has the advice " + advice);
      }
    }
  }

  private static List<String> words(String text) {
    return List.of(text.split(" "));
  }

  @Test
  void aTokenIsNotSentInPlainTextElsewhere() {
    for (String target : words("127.0.0.1:50051 localhost:50051 [::1]:50051 dns:///localhost:1 unix:/tmp/s")) {
      SessionPoolClient.builder(target).token("secret").build().close();
    }
    for (String target :
        words("192.0.2.1:1 example.com:1 localhost.example.com:1 dns:///example.com:1 127.0.0.1.example.com:1")) {
      assertThrows(
          IllegalArgumentException.class, SessionPoolClient.builder(target).token("secret")::build, target);
    }
    assertThrows(IllegalArgumentException.class, SessionPoolClient.builder("localhost:1").attempts(0)::build);
  }
}
