/** What a client makes of an address and of credentials: options of the channel, and metadata of calls. */
import { BlockList, isIP } from "node:net";

import { type ChannelCredentials, type ChannelOptions, credentials, Metadata } from "@grpc/grpc-js";

import serviceConfig from "./gen/service_config.json";

/** TLS, and with a certificate of the caller's mutual TLS. All of it PEM. */
export interface Tls {
  /** The authorities that the service's certificate may be of. Default: those that Node.js has. */
  ca?: Buffer;
  cert?: Buffer;
  key?: Buffer;
}

export interface ClientOptions {
  tls?: Tls;
  /** Sent as `authorization: Bearer`, over TLS or to a loopback address. A function is asked for each call. */
  token?: string | (() => string);
  /** Takes the place of the default service config, as JSON. */
  serviceConfig?: string;
  /** Further options of the channel, which go before those of the client. */
  channelOptions?: ChannelOptions;
  /** How often in a row a lost stream is taken up again without a new event. Default: 10. */
  attempts?: number;
}

interface MethodConfig {
  name: { service: string; method?: string }[];
  waitForReady?: boolean;
}

/** The service config that channels have by default, as JSON: `deploy/service_config.json`. */
export function defaultServiceConfig(): string {
  return JSON.stringify(serviceConfig);
}

export function channelCredentials(tls: Tls | undefined): ChannelCredentials {
  if (tls === undefined) return credentials.createInsecure();
  if ((tls.cert === undefined) !== (tls.key === undefined)) {
    throw new TypeError("a certificate needs its key, and a key its certificate");
  }
  return credentials.createSsl(tls.ca ?? null, tls.key ?? null, tls.cert ?? null);
}

export function channelOptions(options: ClientOptions): ChannelOptions {
  return {
    "grpc.service_config": options.serviceConfig ?? defaultServiceConfig(),
    // Channels to one address would share a connection, and what happens to one happens to all.
    "grpc.use_local_subchannel_pool": 1,
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 2000,
    // A connection that breaks without a word is noticed while a stream is quiet.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    ...options.channelOptions,
  };
}

/** The methods, as `Service/Method`, that wait for a connection: grpc-js leaves that to its callers. */
export function waitingMethods(config: string): Set<string> {
  const entries: MethodConfig[] = JSON.parse(config).methodConfig ?? [];
  const waiting = entries.filter((entry) => entry.waitForReady);
  return new Set(waiting.flatMap((entry) => entry.name.map((name) => `/${name.service}/${name.method ?? ""}`)));
}

/** Refuses to send a token where others may read it. */
export function checkToken(address: string, options: ClientOptions): void {
  if (options.token !== undefined && options.tls === undefined && !isLoopback(address)) {
    throw new TypeError(`a token is sent over TLS, or to a loopback address: ${address} is none`);
  }
}

function isLoopback(address: string): boolean {
  if (/^unix(-abstract)?:/.test(address)) return true;
  const host = address
    .replace(/^.*\//, "")
    .replace(/:\d+$/, "")
    .replace(/^\[|\]$/g, "");
  const loopback = new BlockList();
  loopback.addSubnet("127.0.0.0", 8);
  loopback.addAddress("::1", "ipv6");
  const family = isIP(host);
  return family === 0 ? host === "localhost" : loopback.check(host, family === 6 ? "ipv6" : "ipv4");
}

/** The metadata of a call: the caller's, the session's id for proxies that route by it, and the token. */
export function callMetadata(
  token: ClientOptions["token"],
  sessionId: string,
  more: Metadata | undefined,
  waitForReady: boolean,
): Metadata {
  const metadata = more?.clone() ?? new Metadata();
  if (sessionId !== "") metadata.add("session-id", sessionId);
  if (token !== undefined) metadata.add("authorization", `Bearer ${typeof token === "string" ? token : token()}`);
  metadata.setOptions({ ...metadata.getOptions(), waitForReady });
  return metadata;
}
