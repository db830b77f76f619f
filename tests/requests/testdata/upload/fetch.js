// Node's fetch (undici): node fetch.js <url> <sized|chunked> <bytes>...
const [url, framing, ...sizes] = process.argv.slice(2);

function stream(whole) {
  let at = 0;
  return new ReadableStream({
    pull(c) {
      if (at >= whole.length) return c.close();
      c.enqueue(whole.subarray(at, at + 65536));
      at += 65536;
    },
  });
}

(async () => {
  for (const bytes of sizes) {
    const whole = Buffer.alloc(Number(bytes), 'x');
    try {
      const body = framing === 'sized' ? whole : stream(whole);
      const res = await fetch(url, { method: 'POST', body, duplex: 'half', headers: { Authorization: 'Bearer bad' } });
      await res.text();
      console.log(bytes, res.status);
    } catch (e) {
      console.log(bytes, 'error', e.cause ? e.cause.code || e.cause.message : e.message);
    }
  }
  process.exit(0);
})();
