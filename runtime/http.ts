/** The one way out to providers: an HTTP client with a deadline, retries, bounded concurrency and a histogram per endpoint. */

export interface HttpRequest {
  readonly method?: 'GET' | 'POST'
  readonly url: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  /** A name for metrics and faults, such as `rafay.instance_usage`: never the URL, which has ids in it. */
  readonly endpoint: string
  readonly signal: AbortSignal
}

export interface HttpAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly text: string
}

export interface Http extends AsyncDisposable {
  /**
   * Answers only with a 2xx, after retries.
   * @throws Fault SOURCE_UNREACHABLE | SOURCE_BUSY | SOURCE_DENIED | SOURCE_MISSING | SOURCE_REFUSED | BODY_TOO_LARGE |
   * BODY_UNREADABLE (cut off or badly encoded) | ABORTED, with endpoint and status in its facts.
   */
  request(request: HttpRequest): Promise<HttpAnswer>
}
