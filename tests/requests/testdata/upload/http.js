// Node's http and https: node http.js <url> <sized|chunked> <bytes>...
const [url, framing, ...sizes] = process.argv.slice(2);
const lib = require(url.startsWith('https') ? 'https' : 'http');

const once = (body) => new Promise((done) => {
  const headers = { Authorization: 'Bearer bad' };
  if (framing === 'sized') headers['Content-Length'] = body.length;
  const req = lib.request(url, { method: 'POST', headers, rejectUnauthorized: false, agent: false }, (res) => {
    res.on('error', (e) => done('error ' + e.code));
    res.on('end', () => done(res.statusCode));
    res.resume();
  });
  req.on('error', (e) => done('error ' + e.code));
  for (let at = 0; at < body.length; at += 65536) req.write(body.subarray(at, at + 65536));
  req.end();
});

(async () => {
  for (const bytes of sizes) console.log(bytes, await once(Buffer.alloc(Number(bytes), 'x')));
  process.exit(0);
})();
