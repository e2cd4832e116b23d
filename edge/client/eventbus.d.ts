// Types of eventbus.js.

/** One step of a job, as proto/eventbus/v1/eventbus.proto has it. */
export interface JobEvent {
  /** The resume cursor. */
  id: string;
  domain: string;
  job_id: string;
  /** 1, 2, 3 … within the job, without holes. */
  seq: number;
  stage: string;
  /** Well known: started, streaming, completed, failed, waiting. */
  status?: string;
  /** Per cent. */
  progress?: number;
  message?: string;
  /** A chunk of text. */
  content?: string;
  result?: unknown;
  attributes?: Record<string, string>;
  /** The job's last event. */
  final?: boolean;
  publish_time?: string;
  traceparent?: string;
}

/** Events before the next one are lost; what is still retained comes again. */
export interface Gap {
  reason: 'REASON_UNSPECIFIED' | 'REASON_HISTORY_EXPIRED' | 'REASON_LOG_RESET';
  oldest_id?: string;
  /** In a watch; absent: any job. */
  job_id?: string;
}

/** A gap among the items of a loop: no event has that stage. */
export interface GapItem extends Gap {
  stage: 'gap';
}

export type Item = JobEvent | GapItem;

/** connecting, live and reconnecting go on by themselves; the others are for good. */
export type Connection = 'connecting' | 'live' | 'reconnecting' | 'over' | 'closed' | 'failed';

export interface Options {
  /** The edge's origin. Default: where this module came from. */
  url?: string;
  /**
   * The token for a connection that begins now. refused: the one before was not taken, so get
   * another. Return nothing where a cookie says who asks: then it is only told that the cookie must
   * be renewed. With it streams are read by fetch, else by EventSource where the stages are named.
   */
  token?: (why: { refused: boolean }) => string | null | undefined | void | Promise<string | null | undefined | void>;
  /** As fetch has it; "include" sends cookies to another origin, which CORS_ORIGINS must allow. Default: same-origin. */
  credentials?: RequestCredentials;
  /** The pause after the first failure, in ms; it doubles up to maxDelay, and is jittered. Default: 500. */
  minDelay?: number;
  /** Default: 30000. */
  maxDelay?: number;
  /** A stream that is silent for so long, in ms, is opened again; longer than HEARTBEAT_INTERVAL. Default: 60000. */
  silence?: number;
}

export interface JobOptions {
  /** Where to begin: all retained events, the state, or live only. Default: all. */
  replay?: 'all' | 'state' | 'none';
  /** Resume after this event's id. */
  after?: string;
  /**
   * The stages that the job has. Naming all of them lets the browser's own EventSource do the work, which
   * does not hear others.
   */
  stages?: string[];
}

export interface WatchOptions {
  /** At most 256; absent: all jobs of the domain, live. */
  jobs?: string[];
  stages?: string[];
  /** Resume after this cursor. */
  cursor?: string;
  /** Jobs begin with what the last ten minutes hold of them, or live. Default: all. */
  replay?: 'all' | 'none';
}

export declare class EventBusError extends Error {
  /** HTTP; 0: none. */
  readonly status: number;
  /** google.rpc.Code. */
  readonly code?: number;
}

interface Listeners<S> {
  event: (event: JobEvent, source: S) => void;
  gap: (gap: Gap, source: S) => void;
  connection: (connection: Connection, source: S) => void;
  over: (nothing: undefined, source: S) => void;
  error: (error: EventBusError, source: S) => void;
}

declare abstract class Source implements AsyncIterable<Item> {
  readonly connection: Connection;
  /** Why it failed. */
  readonly error: EventBusError | null;
  /** Listens; call what it returns to stop. */
  on<T extends keyof Listeners<this>>(type: T, listener: Listeners<this>[T]): () => void;
  /** Stops for good. */
  close(): void;
  /** Items from now on; ends when the source is over or closed, throws where it fails. A slow loop slows the reading. */
  [Symbol.asyncIterator](): AsyncIterator<Item>;
}

/** One job: what is known of it, and its events as they come. */
export declare class Job extends Source {
  readonly domain: string;
  readonly id: string;
  readonly seq: number;
  /** The latest that was said, in per cent. */
  readonly progress?: number;
  readonly stage?: string;
  readonly status?: string;
  /** The latest that was said. */
  readonly message?: string;
  /** The latest that was said. */
  readonly result?: unknown;
  /** The content of all events. */
  readonly text: string;
  readonly last: JobEvent | null;
  /** The job is over. */
  readonly final: boolean;
  readonly failed: boolean;
}

/** Many jobs on one connection. */
export declare class Watch extends Source {
  readonly domain: string;
  readonly jobs: ReadonlyMap<string, Job>;
  /** Whether each of the jobs is over. */
  readonly over: boolean;
  /** The helper of a job of this watch. */
  job(id: string): Job;
  /** Follows further jobs; the connection is made anew, and nothing is repeated. */
  add(...ids: string[]): Job[];
}

export declare class EventBus {
  constructor(options?: Options);
  /** Follows one job, at once. */
  job(domain: string, jobId: string, options?: JobOptions): Job;
  /** Follows many jobs, or all of a domain, on one connection. */
  watch(domain: string, options?: WatchOptions): Watch;
  /** The latest event of a job that is final or not streaming; null where there is none. */
  state(domain: string, jobId: string, options?: { signal?: AbortSignal }): Promise<JobEvent | null>;
}
