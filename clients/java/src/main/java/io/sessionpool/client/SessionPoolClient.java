package io.sessionpool.client;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptor;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import io.grpc.stub.AbstractBlockingStub;
import io.sessionpool.v1.AttachRequest;
import io.sessionpool.v1.CloseSessionRequest;
import io.sessionpool.v1.CloseSessionResponse;
import io.sessionpool.v1.GetSessionRequest;
import io.sessionpool.v1.GetSessionResponse;
import io.sessionpool.v1.GetStatsRequest;
import io.sessionpool.v1.GetStatsResponse;
import io.sessionpool.v1.InterruptAllRequest;
import io.sessionpool.v1.InterruptAllResponse;
import io.sessionpool.v1.InterruptRequest;
import io.sessionpool.v1.InterruptResponse;
import io.sessionpool.v1.ListSessionsRequest;
import io.sessionpool.v1.ListSessionsResponse;
import io.sessionpool.v1.QueryRequest;
import io.sessionpool.v1.RespondRequest;
import io.sessionpool.v1.RespondResponse;
import io.sessionpool.v1.SessionPoolServiceGrpc.SessionPoolServiceBlockingStub;
import io.sessionpool.v1.SessionPoolServiceGrpc;
import io.sessionpool.v1.StopTaskRequest;
import io.sessionpool.v1.StopTaskResponse;
import io.sessionpool.v1.UpdateSessionRequest;
import io.sessionpool.v1.UpdateSessionResponse;
import io.sessionpool.v1.WatchSessionRequest;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.function.Supplier;

/**
 * A client of session-pool, the gRPC service that runs turns on Claude CLI processes.
 *
 * <p>It is thin: requests, answers and events are the messages of the contract, in {@code io.sessionpool.v1}.
 * What it adds: a turn is one stream of whole events, also when an event comes in parts or the connection is
 * lost ({@link Turn}); errors have their reason and say whether to ask again ({@link SessionPoolException});
 * the session's id goes along as metadata, by which proxies choose a node; deploy/service_config.json is in
 * force.
 *
 * <p>It is safe for use by several threads, and its connection is shared by all calls.
 */
public final class SessionPoolClient implements AutoCloseable {
  /** The version of this package. */
  public static final String VERSION = "0.1.0";

  /** The name of the service in the contract, for {@link #health}. */
  public static final String SERVICE = SessionPoolServiceGrpc.SERVICE_NAME;

  private final Connection connection;
  private final Duration timeout;

  private SessionPoolClient(Connection connection, Duration timeout) {
    this.connection = connection;
    this.timeout = timeout;
  }

  /** A client of the service at this host and port, in plain text. It connects with the first call. */
  public static SessionPoolClient create(String target) {
    return builder(target).build();
  }

  /** A client of the service at this host and port, or any other target of gRPC. */
  public static Builder builder(String target) {
    return new Builder(target);
  }

  /**
   * The service config that calls have unless a resolver brings another: which calls are tried again by gRPC
   * itself, and the deadline of those that have none.
   */
  public static String serviceConfig() {
    try (InputStream file = SessionPoolClient.class.getResourceAsStream("service_config.json")) {
      return new String(file.readAllBytes(), StandardCharsets.UTF_8);
    } catch (IOException failed) {
      throw new UncheckedIOException(failed);
    }
  }

  /** The same client, with a time that each of its calls may take. It shares the connection. */
  public SessionPoolClient withTimeout(Duration timeout) {
    return new SessionPoolClient(connection, timeout);
  }

  /** Runs a turn, which begins when its first event is asked for. */
  public Turn query(QueryRequest request) {
    AttachRequest attach =
        AttachRequest.newBuilder()
            .setSessionId(request.getSessionId())
            .setPayloadValue(request.getPayloadValue())
            .setIncludePartialMessages(request.getOptions().getIncludePartialMessages())
            .build();
    if (request.hasHeartbeatInterval()) {
      attach = attach.toBuilder().setHeartbeatInterval(request.getHeartbeatInterval()).build();
    }
    return new Turn(new TurnReader(connection, deadline(), request, attach));
  }

  /** Joins a turn that is running or ended a moment ago. */
  public Turn attach(AttachRequest request) {
    return new Turn(new TurnReader(connection, deadline(), null, request));
  }

  /**
   * Follows a session over all of its turns. It is not taken up again by itself when the connection is lost:
   * call it with the last cursor.
   */
  public Watch watchSession(WatchSessionRequest request) {
    return new Watch(connection, deadline(), request);
  }

  /** Answers something that the CLI asked. */
  public RespondResponse respond(RespondRequest request) {
    return call(request.getSessionId(), stub -> stub.respond(request));
  }

  /** Stops one session's turn. */
  public InterruptResponse interrupt(InterruptRequest request) {
    return call(request.getSessionId(), stub -> stub.interrupt(request));
  }

  /** Stops the turn of every session of the tenant. */
  public InterruptAllResponse interruptAll(InterruptAllRequest request) {
    return call("", stub -> stub.interruptAll(request));
  }

  /** Stops something that works behind a session's turns. */
  public StopTaskResponse stopTask(StopTaskRequest request) {
    return call(request.getSessionId(), stub -> stub.stopTask(request));
  }

  /** The pool's figures. */
  public GetStatsResponse getStats(GetStatsRequest request) {
    return call("", stub -> stub.getStats(request));
  }

  /** One session's state and figures. */
  public GetSessionResponse getSession(GetSessionRequest request) {
    return call(request.getSessionId(), stub -> stub.getSession(request));
  }

  /** The sessions of the tenant, page by page. */
  public ListSessionsResponse listSessions(ListSessionsRequest request) {
    return call("", stub -> stub.listSessions(request));
  }

  /** Changes what can be changed on a living session. */
  public UpdateSessionResponse updateSession(UpdateSessionRequest request) {
    return call(request.getSessionId(), stub -> stub.updateSession(request));
  }

  /** Ends a session. */
  public CloseSessionResponse closeSession(CloseSessionRequest request) {
    return call(request.getSessionId(), stub -> stub.closeSession(request));
  }

  /** The stub for everything else, ServeTools first of all. Its errors are gRPC's own. */
  public SessionPoolServiceGrpc.SessionPoolServiceStub stub() {
    return SessionPoolServiceGrpc.newStub(connection.channel());
  }

  /**
   * The health of a service by name: the empty one, {@link #SERVICE}, or {@code liveness}. It needs no
   * credentials.
   */
  public ServingStatus health(String service) {
    HealthCheckRequest request = HealthCheckRequest.newBuilder().setService(service).build();
    return typed(timed(HealthGrpc.newBlockingStub(connection.channel())), stub -> stub.check(request)).getStatus();
  }

  /** Whether the service takes turns. */
  public boolean isHealthy() {
    return health(SERVICE) == ServingStatus.SERVING;
  }

  /** Ends the connection and all calls on it. */
  @Override
  public void close() {
    connection.channel().shutdownNow();
    try {
      connection.channel().awaitTermination(5, TimeUnit.SECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private Deadline deadline() {
    return timeout == null ? null : Deadline.after(timeout.toNanos(), TimeUnit.NANOSECONDS);
  }

  private <S extends AbstractBlockingStub<S>> S timed(S stub) {
    Deadline deadline = deadline();
    return deadline == null ? stub : stub.withDeadline(deadline);
  }

  private <R> R call(String sessionId, Function<SessionPoolServiceBlockingStub, R> call) {
    SessionPoolServiceBlockingStub stub = timed(SessionPoolServiceGrpc.newBlockingStub(connection.channel()));
    return typed(stub.withOption(Metadatas.SESSION, sessionId), call);
  }

  private static <S, R> R typed(S stub, Function<S, R> call) {
    try {
      return call.apply(stub);
    } catch (StatusRuntimeException failed) {
      io.grpc.Metadata trailers = failed.getTrailers() == null ? new io.grpc.Metadata() : failed.getTrailers();
      throw SessionPoolException.of(failed.getStatus(), trailers, false);
    }
  }

  /** Says how a client calls. */
  public static final class Builder {
    private static final Duration CONNECT_TIMEOUT = Duration.ofSeconds(30);
    private static final int ATTEMPTS = 10;

    private final String target;
    private TlsChannelCredentials.Builder tls;
    private String serverName;
    private Supplier<String> token;
    private Duration connectTimeout = CONNECT_TIMEOUT;
    private int attempts = ATTEMPTS;
    private String serviceConfig = SessionPoolClient.serviceConfig();
    private final List<ClientInterceptor> interceptors = new ArrayList<>();

    private Builder(String target) {
      this.target = target;
    }

    /** Turns TLS on, with the machine's authorities. */
    public Builder tls() {
      tls = tls == null ? TlsChannelCredentials.newBuilder() : tls;
      return this;
    }

    /** Turns TLS on and trusts the authorities of this PEM file alone. */
    public Builder ca(File authorities) throws IOException {
      tls().tls.trustManager(authorities);
      return this;
    }

    /** Turns mutual TLS on, with a certificate and its key (PKCS #8) in PEM files. */
    public Builder clientCertificate(File certificate, File key) throws IOException {
      tls().tls.keyManager(certificate, key);
      return this;
    }

    /** The name that the server's certificate must have, where it is not the target's. */
    public Builder serverName(String name) {
      tls().serverName = name;
      return this;
    }

    /** Sends a bearer token with every call, over TLS or to this machine only. */
    public Builder token(String token) {
      return token(() -> token);
    }

    /** Asks for the bearer token at every call, so that it may be replaced. */
    public Builder token(Supplier<String> token) {
      this.token = token;
      return this;
    }

    /**
     * Bounds how long a stream waits for a connection, at its start and each time that it was lost. Default:
     * 30 s. Other calls wait for as long as their deadline allows.
     */
    public Builder connectTimeout(Duration limit) {
      this.connectTimeout = limit;
      return this;
    }

    /**
     * How often a stream is asked for, one try after the other, without an event in between: 1 does neither
     * retry nor resume. Default: 10.
     */
    public Builder attempts(int attempts) {
      this.attempts = attempts;
      return this;
    }

    /** Another service config than {@link SessionPoolClient#serviceConfig}, as JSON. */
    public Builder serviceConfig(String json) {
      this.serviceConfig = json;
      return this;
    }

    /** Adds an interceptor, which sees calls as they are sent. */
    public Builder interceptor(ClientInterceptor interceptor) {
      interceptors.add(interceptor);
      return this;
    }

    /** The client. It connects with the first call. */
    public SessionPoolClient build() {
      if (attempts < 1 || connectTimeout.isNegative() || connectTimeout.isZero()) {
        throw new IllegalArgumentException("fewer than one attempt, or no time to connect");
      }
      if (token != null && tls == null && !Targets.isLoopback(target)) {
        throw new IllegalArgumentException("a token without TLS is only sent to this machine");
      }
      ChannelCredentials credentials = tls == null ? InsecureChannelCredentials.create() : tls.build();
      Map<String, ?> config = new Gson().fromJson(serviceConfig, new TypeToken<Map<String, Object>>() {}.getType());
      ManagedChannelBuilder<?> builder =
          Grpc.newChannelBuilder(target, credentials)
              .defaultServiceConfig(config)
              .userAgent("session-pool-java/" + VERSION)
              .keepAliveTime(30, TimeUnit.SECONDS)
              .keepAliveTimeout(10, TimeUnit.SECONDS)
              // The one that is added last sees a call first.
              .intercept(interceptors)
              .intercept(new Metadatas.Sessions());
      if (serverName != null) {
        builder.overrideAuthority(serverName);
      }
      if (token != null) {
        builder.intercept(new Metadatas.Authorized(new Metadatas.Bearer(token)));
      }
      return new SessionPoolClient(new Connection(builder.build(), connectTimeout, attempts), null);
    }
  }
}
