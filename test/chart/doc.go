// Package chart tests charts/graphene: what it renders from several sets of
// values, that helm's own linter and the schema of the values agree with it,
// and that it only says what the programs and the documentation say too.
package chart
