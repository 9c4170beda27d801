// Command issuer is an OpenID Connect issuer for tests. It gives a service
// account, sid1 with the secret verysecret, signed tokens for the audience
// "graphene" by the client credentials flow.
package main

import (
	"context"
	"flag"
	"log/slog"
	"net/http"
	"os"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

func main() {
	listen := flag.String("listen", ":9998", "address to listen on")
	url := flag.String("issuer", "http://localhost:9998/", "the issuer's URL, as its clients reach it")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	accounts := signing{storage.NewStorage(storage.NewUserStore(*url))}
	log.Info("the issuer listens", "address", *listen, "issuer", *url)
	err := http.ListenAndServe(*listen, exampleop.SetupServer(*url, accounts, log, false))
	log.Error("the issuer has ended", "error", err)
	os.Exit(1)
}

// signing gives out tokens that can be verified without asking the issuer.
type signing struct{ *storage.Storage }

func (s signing) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	client, err := s.Storage.ClientCredentials(ctx, id, secret)
	if err != nil {
		return nil, err
	}
	return signed{client}, nil
}

func (s signing) ClientCredentialsTokenRequest(ctx context.Context, id string, scopes []string) (op.TokenRequest, error) {
	return &oidc.JWTTokenRequest{Subject: id, Audience: []string{"graphene"}, Scopes: scopes}, nil
}

type signed struct{ op.Client }

func (signed) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }
