// Writes miniprogram_dist, which "npm build" of WeChat's DevTools copies: CommonJS for phones
// of 2018 and later. `node build.js --check` only compares it with the sources.
import { build } from 'esbuild'
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const here = name => fileURLToPath(new URL(name, import.meta.url))

const result = await build({
  entryPoints: ['index', 'dev', 'fetch', 'axios', 'alova'].map(name => here(`src/${name}.js`)),
  outdir: here('miniprogram_dist'), bundle: true, external: ['axios'],
  format: 'cjs', platform: 'neutral', target: 'es2018', charset: 'utf8', minify: true, write: false
})
const check = process.argv.includes('--check')
for (const { path, text } of result.outputFiles) {
  if (!check) writeFileSync(path, text)
  else if (readFileSync(path, 'utf8') !== text) {
    console.error(path + ' is not what build.js makes of src: run npm run build')
    process.exitCode = 1
  }
}
