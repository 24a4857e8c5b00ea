package io.sessionpool.client;

import io.grpc.CallCredentials;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.util.concurrent.Executor;
import java.util.function.Supplier;

/** What goes along with calls as metadata. */
final class Metadatas {
  /** The session of a call, by which proxies choose a node. */
  static final CallOptions.Key<String> SESSION = CallOptions.Key.createWithDefault("session-id", "");

  private static final Metadata.Key<String> SESSION_ID =
      Metadata.Key.of("session-id", Metadata.ASCII_STRING_MARSHALLER);
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private Metadatas() {}

  /** Sends the session's id, unless it is there already. */
  static final class Sessions implements ClientInterceptor {
    @Override
    public <Q, R> ClientCall<Q, R> interceptCall(MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
      String session = options.getOption(SESSION);
      return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
        @Override
        public void start(Listener<R> listener, Metadata headers) {
          if (!session.isEmpty() && !headers.containsKey(SESSION_ID)) {
            headers.put(SESSION_ID, session);
          }
          super.start(listener, headers);
        }
      };
    }
  }

  /** Gives every call credentials, but those that have their own. */
  static final class Authorized implements ClientInterceptor {
    private final CallCredentials credentials;

    Authorized(CallCredentials credentials) {
      this.credentials = credentials;
    }

    @Override
    public <Q, R> ClientCall<Q, R> interceptCall(MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
      boolean has = options.getCredentials() != null;
      return next.newCall(method, has ? options : options.withCallCredentials(credentials));
    }
  }

  /** Sends a bearer token, asked for at every call so that it may be replaced. */
  static final class Bearer extends CallCredentials {
    private final Supplier<String> token;

    Bearer(Supplier<String> token) {
      this.token = token;
    }

    @Override
    public void applyRequestMetadata(RequestInfo info, Executor executor, MetadataApplier applier) {
      executor.execute(
          () -> {
            try {
              Metadata headers = new Metadata();
              headers.put(AUTHORIZATION, "Bearer " + token.get());
              applier.apply(headers);
            } catch (RuntimeException failed) {
              applier.fail(Status.UNAUTHENTICATED.withDescription("there is no token").withCause(failed));
            }
          });
    }
  }
}
