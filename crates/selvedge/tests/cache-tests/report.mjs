// Prints, for each test of http-cache-tests that applies to proxies, its kind and how it came out.
// Usage: node report.mjs PACKAGE_DIRECTORY RESULTS.json
import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const [, , directory, results] = process.argv
const load = file => import(pathToFileURL(path.join(directory, file)).href)
const { default: suites } = await load('tests/index.mjs')
const { default: surrogate } = await load('tests/surrogate-control.mjs')
const outcome = JSON.parse(fs.readFileSync(results, 'utf8'))

const report = []
for (const suite of [...suites, surrogate]) {
  for (const test of suite.tests) {
    if (test.browser_only) continue
    const result = outcome[test.id]
    report.push({
      suite: suite.id,
      id: test.id,
      kind: test.kind ?? 'required',
      passed: result === true,
      words: Array.isArray(result) ? result[1] : ''
    })
  }
}
console.log(JSON.stringify(report))
