package io.sessionpool.client;

import java.util.List;

/** The targets that a client may have. */
final class Targets {
  private static final List<String> SCHEMES = List.of("dns:///", "ipv4:", "ipv6:");

  private Targets() {}

  /** Whether a target is on this machine, by its text: no name is looked up. */
  static boolean isLoopback(String target) {
    if (target.startsWith("unix:")) {
      return true;
    }
    String host = target;
    for (String scheme : SCHEMES) {
      if (host.startsWith(scheme)) {
        host = host.substring(scheme.length());
      }
    }
    if (host.startsWith("[")) {
      return host.startsWith("[::1]");
    }
    int colon = host.lastIndexOf(':');
    host = colon < 0 ? host : host.substring(0, colon);
    return host.equals("localhost") || host.matches("127(\\.\\d{1,3}){3}");
  }
}
