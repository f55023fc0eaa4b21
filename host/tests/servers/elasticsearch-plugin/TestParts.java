package wasmill.tests;

import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.function.Predicate;
import java.util.function.Supplier;
import java.util.regex.Pattern;
import org.elasticsearch.Build;
import org.elasticsearch.client.internal.node.NodeClient;
import org.elasticsearch.cluster.metadata.IndexNameExpressionResolver;
import org.elasticsearch.cluster.node.DiscoveryNodes;
import org.elasticsearch.cluster.service.ClusterService;
import org.elasticsearch.common.io.stream.NamedWriteableRegistry;
import org.elasticsearch.common.settings.ClusterSettings;
import org.elasticsearch.common.settings.IndexScopedSettings;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.common.settings.SettingsFilter;
import org.elasticsearch.features.NodeFeature;
import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.Tokenizer;
import org.apache.lucene.analysis.miscellaneous.RemoveDuplicatesTokenFilter;
import org.apache.lucene.analysis.pattern.PatternCaptureGroupTokenFilter;
import org.apache.lucene.analysis.email.UAX29URLEmailTokenizer;
import org.elasticsearch.index.analysis.TokenFilterFactory;
import org.elasticsearch.index.analysis.TokenizerFactory;
import org.elasticsearch.indices.analysis.AnalysisModule.AnalysisProvider;
import org.elasticsearch.plugins.ActionPlugin;
import org.elasticsearch.plugins.AnalysisPlugin;
import org.elasticsearch.plugins.Plugin;
import org.elasticsearch.rest.BaseRestHandler;
import org.elasticsearch.rest.RestController;
import org.elasticsearch.rest.RestHandler;
import org.elasticsearch.rest.RestRequest;
import org.elasticsearch.rest.RestResponse;
import org.elasticsearch.rest.RestStatus;
import org.elasticsearch.xcontent.XContentBuilder;

// Lines marked //8 are for the 8.x plugin API, //9 for that of 9.5; start-elasticsearch.sh keeps one kind.
/**
 * What the stripped distribution leaves to modules it does not carry and clients still meet:
 * GET / and HEAD / (module rest-root), and the three analysis parts (module analysis-common)
 * without which the .security index, hence API keys, cannot be made.
 */
public final class TestParts extends Plugin implements ActionPlugin, AnalysisPlugin {
    private volatile ClusterService cluster;

    @Override
    public Collection<?> createComponents(PluginServices services) {
        cluster = services.clusterService();
        return List.of();
    }

    @Override //8
    public Collection<RestHandler> getRestHandlers(Settings settings, NamedWriteableRegistry names, RestController rest, //8
            ClusterSettings clusterSettings, IndexScopedSettings indexSettings, SettingsFilter filter, //8
            IndexNameExpressionResolver resolver, Supplier<DiscoveryNodes> nodes, Predicate<NodeFeature> features) { //8
        return List.of(new Root()); //8
    } //8
    @Override //9
    public Collection<RestHandler> getRestHandlers(RestHandlersServices services, //9
            Supplier<DiscoveryNodes> nodes, Predicate<NodeFeature> features) { //9
        return List.of(new Root()); //9
    } //9

    private interface Wrap { TokenStream wrap(TokenStream in); }

    private static TokenFilterFactory filter(String name, Wrap w) {
        return new TokenFilterFactory() {
            @Override public String name() { return name; }
            @Override public TokenStream create(TokenStream in) { return w.wrap(in); }
        };
    }

    @Override
    public Map<String, AnalysisProvider<TokenFilterFactory>> getTokenFilters() {
        return Map.of(
            "pattern_capture", new AnalysisProvider<TokenFilterFactory>() {
                @Override public TokenFilterFactory get(org.elasticsearch.index.IndexSettings i,
                        org.elasticsearch.env.Environment e, String name, Settings s) {
                    boolean keep = s.getAsBoolean("preserve_original", true);
                    Pattern[] patterns = s.getAsList("patterns").stream().map(Pattern::compile).toArray(Pattern[]::new);
                    return filter(name, in -> new PatternCaptureGroupTokenFilter(in, keep, patterns));
                }
                @Override public boolean requiresAnalysisSettings() { return true; }
            },
            "unique", (i, e, name, s) -> filter(name, RemoveDuplicatesTokenFilter::new));
    }

    @Override
    public Map<String, AnalysisProvider<TokenizerFactory>> getTokenizers() {
        return Map.of("uax_url_email", (i, e, name, s) -> TokenizerFactory.newFactory(name, () -> {
            Tokenizer t = new UAX29URLEmailTokenizer();
            return t;
        }));
    }

    private final class Root extends BaseRestHandler {
        @Override public String getName() { return "test_root"; }

        @Override public List<Route> routes() {
            return List.of(new Route(RestRequest.Method.GET, "/"), new Route(RestRequest.Method.HEAD, "/"));
        }

        @Override protected RestChannelConsumer prepareRequest(RestRequest request, NodeClient client) {
            return channel -> {
                Build build = Build.current();
                var state = cluster.state();
                try (XContentBuilder b = channel.newBuilder()) {
                    b.prettyPrint().startObject()
                        .field("name", cluster.getNodeName())
                        .field("cluster_name", state.getClusterName().value())
                        .field("cluster_uuid", state.metadata().clusterUUID())
                        .startObject("version")
                            .field("number", build.qualifiedVersion())
                            .field("build_flavor", build.flavor())
                            .field("build_type", build.type().displayName())
                            .field("build_hash", build.hash())
                            .field("build_date", build.date())
                            .field("build_snapshot", build.isSnapshot())
                            .field("minimum_wire_compatibility_version", build.minWireCompatVersion())
                            .field("minimum_index_compatibility_version", build.minIndexCompatVersion())
                        .endObject()
                        .field("tagline", "You Know, for Search")
                        .endObject();
                    channel.sendResponse(new RestResponse(RestStatus.OK, b));
                }
            };
        }
    }
}
